"""The watch over a run: drift has a price and a limit, standing still and wrecking are told once."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from ddspo.diffusion.noise_path import NoisePath
from ddspo.objectives.anchor import drift_anchor
from ddspo.objectives.preference import preference_loss
from ddspo.recipe import AutoBeta, Recipe
from ddspo.tensors import Conditioning, PreferenceBatch, WinLose
from ddspo.training.step import make_step
from ddspo.training.watch import FULL_STEP_PRICE, Watch

AUTO = AutoBeta(hold_drift=0.5, stop_drift=2.0)


def row(step: int, drift: float, saturation: float = 0.3, **more: float) -> dict[str, Any]:
    return {"step": step, "win_drift": drift / 2, "lose_drift": drift, "saturation": saturation, **more}


def test_drift_above_its_bound_has_a_price_that_falls_with_it() -> None:
    watch, smoothed, prices = Watch(beta=100.0, yardstick=0.1), 0.0, []
    for step, drift in enumerate([0.02, 0.04, 0.15, 0.15, 0.15, 0.15, 0.0, 0.0, 0.0, 0.0, 0.0], 1):
        price = watch.price(AUTO)
        added = watch.see(row(step, drift), AUTO, 30)
        assert added == {"beta": 100.0, "drift_price": price, "drift_over_signal": pytest.approx(drift / 0.1)}
        smoothed = 0.8 * smoothed + 0.2 * drift / 0.1
        assert watch.drift == pytest.approx(smoothed)
        prices.append(watch.price(AUTO))
    assert prices[:2] == [0.0, 0.0]
    assert max(prices) == prices[5] > 0.1
    assert prices[-1] == 0.0
    assert Watch(beta=1.0, drift=1.0).price(AutoBeta()) == FULL_STEP_PRICE  # one whole step
    assert Watch(drift=9.0).price(AUTO) == 0.0


def test_at_the_full_price_an_unsaturated_policy_stands_still_after_one_whole_step() -> None:
    signal = torch.randn(1, 4, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros_like(signal)
    reference, target = WinLose(nothing, nothing), WinLose(nothing, -signal)
    beta = 1e-3  # never saturates
    moved = signal.clone().requires_grad_()
    policy = WinLose(moved, moved)
    loss = preference_loss(policy, reference, target, beta=beta).loss
    loss = loss + drift_anchor(policy, reference, unit=beta / 2, anchor=FULL_STEP_PRICE, lose_anchor=FULL_STEP_PRICE)
    loss.sum().backward()
    assert moved.grad is not None
    assert moved.grad.abs().max() < 1e-3 * beta * signal.abs().max()


def test_the_price_is_an_anchor_beside_the_recipes_own() -> None:
    path = NoisePath.variance_preserving(torch.linspace(0.99, 0.01, 10, dtype=torch.float64), "epsilon")
    told = Conditioning({"c": torch.tensor([[1.0], [2.0]])})
    degraded = Conditioning({"c": torch.tensor([[0.5], [0.5]])})
    draws = torch.randn(3, 2, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    batch = PreferenceBatch(WinLose(draws[0], draws[1]), draws[2], torch.tensor([2, 7]), told, degraded)

    def predict(role: str, x_t: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        return x_t * conditioning.tensors["c"][..., None, None] * (1.3 if role == "policy" else 1.0)

    def loss(anchor: float, lose_anchor: float | None, price: float) -> torch.Tensor:
        fields = {"beta": "auto", "anchor": anchor, "lose_anchor": lose_anchor}
        made = make_step(Recipe.model_validate({"objective": fields}), predict, path)
        return made(batch, beta=3.0, price=price).loss

    torch.testing.assert_close(loss(0.0, None, 0.2), loss(0.2, None, 0.0))
    torch.testing.assert_close(loss(0.1, 0.3, 0.2), loss(0.3, 0.5, 0.0))
    assert (loss(0.0, None, 0.2) > loss(0.0, None, 0.0)).all()


def test_the_side_that_drifts_more_counts_and_saturation_is_smoothed() -> None:
    watch = Watch(beta=100.0, yardstick=0.1)
    added = watch.see({"step": 1, "win_drift": 0.3, "lose_drift": 0.1, "saturation": 0.1}, AUTO, 10)
    assert added["drift_over_signal"] == pytest.approx(3.0)
    assert (watch.drift, watch.saturation) == (pytest.approx(0.6), pytest.approx(0.8 * 0.5 + 0.2 * 0.1))


def test_too_much_drift_stops_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch(beta=100.0, yardstick=0.1)
    told = [watch.see(row(step, 0.3), AUTO, 50) for step in range(1, 6)]
    stopped = [step for step, added in enumerate(told, 1) if "stopped" in added]
    assert stopped == [5]  # 3 (1 - 0.8^n) > 2 first at n = 5
    assert watch.stopped is not None
    assert told[4]["stopped"] == watch.stopped
    assert "step 5 of 50" in watch.stopped and "stop_drift" in watch.stopped
    assert watch.stopped in capsys.readouterr().err
    endless = Watch(beta=100.0, yardstick=0.1)
    for step in range(1, 50):
        endless.see(row(step, 30.0), AutoBeta(stop_drift=None), 50)
    assert endless.stopped is None


def test_state_taken_up_again_decides_alike() -> None:
    drifts = [0.02 * step for step in range(20)]
    whole, first = Watch(beta=7.0, yardstick=0.1), Watch(beta=7.0, yardstick=0.1)
    expected = [whole.see(row(step, drift, 0.02), AUTO, 20) for step, drift in enumerate(drifts, 1)]
    got = [first.see(row(step, drift, 0.02), AUTO, 20) for step, drift in enumerate(drifts[:9], 1)]
    second = Watch(**json.loads(json.dumps(first.as_dict())))
    got += [second.see(row(step, drift, 0.02), AUTO, 20) for step, drift in enumerate(drifts[9:], 10)]
    assert got == expected
    assert any("warning" in added for added in expected)


@pytest.mark.parametrize(
    ("drift", "saturation", "more", "words"),
    [
        (1e-6, 0.4999, {"contrast": 0.1}, "learning rate"),
        (0.05, 0.4999, {"contrast": 0.1}, "too small to see it"),
        (0.05, 0.4999, {}, "hardly moved, or objective.beta is too small"),
        (0.9, 0.001, {"contrast": 0.1}, "damages pictures"),
        (0.001, 0.001, {"contrast": 0.1}, "too large to learn more"),
        (0.9, 0.001, {}, "not known without a contrast"),
        (0.05, 0.3, {"contrast": 0.1}, None),
    ],
)
def test_plain_runs_are_warned_once(
    drift: float, saturation: float, more: dict[str, float], words: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = Watch()
    added = [watch.see(row(step, drift, saturation, **more), AUTO, 100) for step in range(1, 101)]
    assert watch.beta is None
    assert watch.price(AUTO) == 0
    assert watch.stopped is None
    warnings = [one["warning"] for one in added if "warning" in one]
    assert [set(one) for one in added if one] == [{"warning"}] * len(warnings)
    kinds = [warning for warning in warnings if words is not None and words in warning]
    assert len(kinds) == (0 if words is None else 1)
    assert len(warnings) == len(set(watch.told)) == capsys.readouterr().err.count("warning:")
    if saturation > 0.49:
        assert warnings[0].startswith("step 50")


def test_a_run_without_margin_is_left_in_peace() -> None:
    watch = Watch()
    assert [watch.see({"step": step, "loss": 0.1}, AUTO, 20) for step in range(1, 21)] == [{}] * 20
