"""Learning rates and averages by hand; AdamW stored and taken up again."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import nn

from ddspo.errors import UserError
from ddspo.memory import optimizer_bytes
from ddspo.recipe import Optimizer
from ddspo.training.optimizer import (
    MovingAverage,
    learning_rate,
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
    set_learning_rate,
)


@pytest.mark.parametrize(
    ("schedule", "warmup", "rates"),
    [
        ("constant", 0, [1, 1, 1, 1]),
        ("constant", 2, [0.5, 1, 1, 1]),
        ("linear", 0, [1, 0.75, 0.5, 0.25]),
        ("linear", 2, [0.5, 1, 1, 0.5]),
        ("cosine", 0, [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
        ("constant", 8, [0.125, 0.25, 0.375, 0.5]),
    ],
)
def test_learning_rate_by_hand(schedule: str, warmup: int, rates: list[float]) -> None:
    settings = Optimizer.model_validate({"learning_rate": 2.0, "schedule": schedule, "warmup_steps": warmup})
    assert [learning_rate(settings, step, 4) / 2 for step in range(4)] == pytest.approx(rates)


def make_parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in (("a", (3, 4)), ("b", (5,)))}


def take_step(parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    set_learning_rate(optimizer, 0.1 / (step + 1))
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def test_first_step_by_hand() -> None:
    parameters = {"a": nn.Parameter(torch.tensor([1.0, -2.0]))}
    settings = Optimizer(learning_rate=0.1, weight_decay=0.5)
    optimizer = make_optimizer(settings, parameters)
    parameters["a"].grad = torch.tensor([0.3, -7.0])
    optimizer.step()
    # decoupled decay, then one unit of the rate along the gradient's sign
    expected = torch.tensor([1.0 * (1 - 0.05) - 0.1, -2.0 * (1 - 0.05) + 0.1])
    torch.testing.assert_close(parameters["a"].detach(), expected)


ADAM = {"a": {"step", "exp_avg", "exp_avg_sq"}, "b": {"step", "exp_avg", "exp_avg_sq"}}
EIGHT_BIT = {
    "a": {"step", "state1", "state2"},
    "b": {"step", "state1", "state2"},
    "c": {"step", "state1", "state2", "qmap1", "qmap2", "absmax1", "absmax2"},
    "d": {"step", "state1", "state2", "qmap1", "qmap2", "absmax1", "absmax2"},
}
FACTORED = {"a": {"step", "RMS", "exp_avg_sq_row", "exp_avg_sq_col"}, "b": {"step", "RMS", "exp_avg_sq"}}


@pytest.mark.parametrize(("kind", "held"), [("adamw", ADAM), ("adafactor", FACTORED), ("adamw_8bit", EIGHT_BIT)])
def test_state_goes_through_a_file_of_plain_tensors_without_a_trace(
    tmp_path: Path, kind: str, held: dict[str, set[str]]
) -> None:
    settings = Optimizer.model_validate({"name": kind, "learning_rate": 0.1})
    unbroken = make_parameters()
    if kind == "adamw_8bit":  # which has float32 moments where a tensor is small
        generator = torch.Generator().manual_seed(1)
        unbroken |= {name: nn.Parameter(torch.randn(70, 70, generator=generator)) for name in ("c", "d")}
    optimizer = make_optimizer(settings, unbroken)
    assert optimizer_state(optimizer, unbroken) == {}
    for step in range(3):
        take_step(unbroken, optimizer, step)
    save_file(optimizer_state(optimizer, unbroken), tmp_path / "optimizer.safetensors")
    state = load_file(tmp_path / "optimizer.safetensors")
    assert state.keys() == {f"{key}.{name}" for name, keys in held.items() for key in keys}

    resumed = {name: nn.Parameter(parameter.detach().clone()) for name, parameter in unbroken.items()}
    second = make_optimizer(settings, resumed)
    load_optimizer_state(second, resumed, state)
    for step in range(3, 6):
        take_step(unbroken, optimizer, step)
        take_step(resumed, second, step)
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)


def test_adafactor_by_hand() -> None:
    """First step: the second moments are this gradient's; the update has size lr where |g|^2 is a product of means."""
    parameters = {"a": nn.Parameter(torch.zeros(2, 2))}
    optimizer = make_optimizer(Optimizer(name="adafactor", learning_rate=0.1, weight_decay=0.0), parameters)
    gradient = torch.tensor([[1.0, -2.0], [3.0, 6.0]])  # |g| is an outer product, so rows and columns say it exactly
    parameters["a"].grad = gradient
    optimizer.step()
    torch.testing.assert_close(parameters["a"].detach(), -0.1 * gradient.sign(), rtol=1e-4, atol=1e-6)


def test_eight_bits_need_the_package_and_a_device_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Optimizer(name="adamw_8bit")
    with pytest.raises(UserError, match="does not run on mps"):
        make_optimizer(settings, {"a": cast(nn.Parameter, SimpleNamespace(device=torch.device("mps")))})
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(UserError, match=r"ddspo\[8bit\]"):
        make_optimizer(settings, make_parameters())


def test_eight_bits_take_adamws_first_step_and_hold_what_the_plan_says() -> None:
    """The first step of AdamW is the gradient's sign; 8 bits say no less of it, to within a table's resolution."""
    shapes = {"large": (64, 65), "small": (5,)}
    generator = torch.Generator().manual_seed(0)
    parameters = {name: nn.Parameter(torch.zeros(shape)) for name, shape in shapes.items()}
    settings = Optimizer(name="adamw_8bit", learning_rate=0.1, weight_decay=0.0)
    optimizer = make_optimizer(settings, parameters)
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator).sign()
    optimizer.step()
    for parameter in parameters.values():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.detach(), -0.1 * parameter.grad, rtol=0.02, atol=0)
    state = optimizer_state(optimizer, parameters)
    moments = {name: held for name, held in state.items() if held.ndim and "qmap" not in name}
    assert sum(held.nbytes for held in moments.values()) == optimizer_bytes("adamw_8bit", shapes)


def test_a_field_without_effect_is_refused() -> None:
    with pytest.raises(ValidationError, match="no effect"):
        Optimizer(name="adafactor", adam_betas=(0.8, 0.9))


def test_average_by_hand() -> None:
    parameter = nn.Parameter(torch.tensor([1.0]))
    average = MovingAverage({"a": parameter}, decay=0.5)
    value = 1.0
    for step, (new, decay) in enumerate([(2.0, 0.1), (3.0, 2 / 11), (4.0, 3 / 12)]):
        parameter.data.fill_(new)
        average.update(step)
        value = decay * value + (1 - decay) * new
        assert average.average["a"].item() == pytest.approx(value, rel=1e-6)
    average.update(1000)
    assert average.average["a"].item() == pytest.approx((value + 4) / 2, rel=1e-6)


def test_average_is_in_place_only_inside_the_block() -> None:
    parameter = nn.Parameter(torch.tensor([1.0]))
    average = MovingAverage({"a": parameter}, decay=0.9)
    parameter.data.fill_(5.0)
    with pytest.raises(RuntimeError, match="boom"), average.in_place():
        assert parameter.item() == 1.0
        raise RuntimeError("boom")
    assert parameter.item() == 5.0
