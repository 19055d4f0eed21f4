"""Training in bfloat16: rounding is right on average, updates are not swallowed, runs resume bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn

from ddspo.recipe import Optimizer, Recipe
from ddspo.training import run as run_module
from ddspo.training.checkpoint import save_checkpoint
from ddspo.training.loop import train
from ddspo.training.optimizer import load_optimizer_state, make_optimizer, optimizer_state
from ddspo.training.rounding import round_stochastically, rounded_step, stand_ins
from helpers.training_cases import make_case, metrics_of, policy_bytes

LOW = {"parameters": "full", "mixed_precision": "bf16", "trained_dtype": "bf16"}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("value", [0.0101, -0.0101, 3.0003, -1e-20, 1.9999])
def test_a_value_becomes_one_of_its_neighbors_and_stays_itself_on_average(value: float) -> None:
    exact = torch.full((40_000,), value)
    found = round_stochastically(exact, generator()).double()
    nearest = torch.tensor(value).to(torch.bfloat16)
    spacing = 2.0 ** (torch.tensor(abs(value)).log2().floor().item() - 7)
    assert len(found.unique()) == 2 and float(nearest) in found.unique().tolist()
    assert (found - exact.double()).abs().max() < spacing
    assert (found.mean() - exact[0].double()).abs() < 4 * spacing / 2 / 200  # four standard errors


def test_what_bfloat16_has_stays_and_a_seed_decides() -> None:
    exact = torch.randn(1000, generator=generator()).to(torch.bfloat16)
    assert torch.equal(round_stochastically(exact.float(), generator(1)), exact)
    values = torch.randn(1000, generator=generator())
    first, again, other = (round_stochastically(values, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def parameters() -> dict[str, nn.Parameter]:
    low = nn.Parameter(torch.full((200, 21), 0.01).to(torch.bfloat16))
    return {"low": low, "norm": nn.Parameter(torch.full((5,), 0.01))}


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "adafactor"])
def test_steps_too_small_for_bfloat16_arrive_on_average(name: str) -> None:
    settings = Optimizer.model_validate({"name": name, "learning_rate": 5e-6, "weight_decay": 0.0})
    held, start = parameters(), parameters()
    optimized = stand_ins(held)
    optimizer = make_optimizer(settings, optimized)
    for step in range(8):
        for parameter in held.values():
            parameter.grad = torch.ones_like(parameter)
        rounded_step(optimizer, held, optimized, 3, step)
    moved = {key: (start[key].double() - held[key].double()).mean().item() for key in held}
    assert moved["norm"] == pytest.approx(8 * 5e-6, rel=1e-2)
    assert moved["low"] == pytest.approx(8 * 5e-6, rel=0.1)
    assert held["low"].dtype == torch.bfloat16 and held["norm"].dtype == torch.float32
    nearest = parameters()["low"]
    assert torch.equal(nearest.detach() - 5e-6, nearest.detach()), "rounded to the nearest nothing moves"
    state = optimizer_state(optimizer, optimized)
    moments = {tensor.dtype for key, tensor in state.items() if key.startswith(("exp_avg", "state"))}
    assert moments == ({torch.float32, torch.uint8} if name == "adamw_8bit" else {torch.float32})
    assert optimized["low"].untyped_storage().nbytes() == 4, "no float32 copy is kept"
    assert optimized["low"].grad is None


def test_a_step_is_that_of_float32_rounded_and_state_goes_through_a_checkpoint() -> None:
    settings = Optimizer(learning_rate=1e-3)
    plain = {"low": nn.Parameter(parameters()["low"].detach().float())}
    exact = make_optimizer(settings, plain)
    plain["low"].grad = torch.full_like(plain["low"], 0.5)
    exact.step()
    held: list[dict[str, nn.Parameter]] = []
    state: dict[str, torch.Tensor] = {}
    for _ in range(2):  # the second time with the state of none, then of a checkpoint
        held.append({"low": parameters()["low"]})
        optimized = stand_ins(held[-1])
        optimizer = make_optimizer(settings, optimized)
        load_optimizer_state(optimizer, optimized, state)
        held[-1]["low"].grad = torch.full_like(held[-1]["low"], 0.5)
        rounded_step(optimizer, held[-1], optimized, 3, 7)
    assert torch.equal(held[0]["low"], held[1]["low"])
    assert (held[0]["low"].float() - plain["low"]).abs().max() < 2.0**-14
    assert optimizer_state(optimizer, optimized).keys() == {"step.low", "exp_avg.low", "exp_avg_sq.low"}


def test_a_run_resumes_bit_for_bit_and_leaves_float32_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, pairs = make_case(tmp_path, **LOW, ema_decay=0.5)
    train(recipe, pairs, tmp_path / "whole")

    def dying(folder: Path, checkpoint: Any, keep: int) -> Path:
        path = save_checkpoint(folder, checkpoint, keep)
        if checkpoint.step == 2:
            raise KeyboardInterrupt
        return path

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "save_checkpoint", dying)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, pairs, tmp_path / "cut")
    train(recipe, pairs, tmp_path / "cut")
    assert policy_bytes(tmp_path / "cut") == policy_bytes(tmp_path / "whole") != {}
    assert metrics_of(tmp_path / "cut") == metrics_of(tmp_path / "whole")
    start = metrics_of(tmp_path / "whole")[0]
    assert start["win_drift"] == start["lose_drift"] == 0, "policy and reference are the same numbers at step 0"
    unet = next((tmp_path / "whole" / "policy" / "unet").glob("*.safetensors"))
    assert {tensor.dtype for tensor in load_file(unet).values()} == {torch.float32}
    held = load_file(tmp_path / "whole" / "checkpoints" / "step-000004" / "trained.safetensors")
    assert torch.equal(held["conv_in.weight"], held["conv_in.weight"].to(torch.bfloat16).float())


@pytest.mark.parametrize("changes", [{"parameters": "lora"}, {"mixed_precision": "no"}])
def test_it_is_refused_where_it_does_not_fit(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="trained_dtype 'bf16' is for parameters 'full' with mixed_precision"):
        Recipe.model_validate({"training": LOW | changes})
