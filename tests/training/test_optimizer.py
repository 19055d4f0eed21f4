"""Learning rates and averages by hand; AdamW stored and taken up again."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

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


def take_step(parameters: dict[str, nn.Parameter], optimizer: torch.optim.AdamW, step: int) -> None:
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


def test_state_goes_through_plain_tensors_without_a_trace() -> None:
    unbroken, optimizer = make_parameters(), None
    optimizer = make_optimizer(Optimizer(learning_rate=0.1), unbroken)
    assert optimizer_state(optimizer, unbroken) == {}
    for step in range(3):
        take_step(unbroken, optimizer, step)
    state = {name: tensor.clone() for name, tensor in optimizer_state(optimizer, unbroken).items()}
    assert state.keys() == {f"{moment}.{name}" for moment in ("step", "exp_avg", "exp_avg_sq") for name in ("a", "b")}

    resumed = {name: nn.Parameter(parameter.detach().clone()) for name, parameter in unbroken.items()}
    second = make_optimizer(Optimizer(learning_rate=0.1), resumed)
    load_optimizer_state(second, resumed, state)
    for step in range(3, 6):
        take_step(unbroken, optimizer, step)
        take_step(resumed, second, step)
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)


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
