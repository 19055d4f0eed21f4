"""Automatic beta: known signal, known beta, in the space and with the strength of the recipe."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ddspo.diffusion.noise_path import NoisePath
from ddspo.errors import UserError
from ddspo.objectives.errors import both_errors
from ddspo.recipe import Objective, Recipe, Target
from ddspo.targets import TargetRows
from ddspo.tensors import Conditioning, PreferenceBatch, WinLose
from ddspo.training.beta import Measured, beta_for, choose_beta, measure_batch, noise_scale
from ddspo.training.data import MicroBatch

EMPTY = Conditioning({})


def micro(weight: list[float]) -> MicroBatch:
    x, count = torch.zeros(len(weight), 1, 2, 2), torch.zeros(len(weight))
    return MicroBatch(PreferenceBatch(WinLose(x, x), x, count, EMPTY, EMPTY), torch.tensor(weight), is_last=False)


def rows(win: list[float], lose: list[float]) -> TargetRows:
    """Reference 0; targets at the given distance from it in every dimension."""
    side = WinLose(*(torch.tensor(values)[:, None, None, None].expand(-1, 1, 2, 2) for values in (win, lose)))
    return TargetRows(side, WinLose(torch.zeros_like(side.win), torch.zeros_like(side.lose)), 3 * len(win))


def signal(win: list[float], lose: list[float], error: float | None = None, dimensions: int = 4) -> Measured:
    spread = None if error is None else torch.full((len(win),), error)
    made = rows(win, lose)
    return Measured(both_errors(made.compared(), made.target), spread, dimensions, 3 * len(win))


def recipe(**auto: Any) -> Recipe:
    return Recipe.model_validate({"objective": {"beta": "auto", "auto": auto}})


def test_beta_is_strength_over_the_weighted_mean_signal_of_both_sides() -> None:
    batches = [micro([1.0, 1.0]), micro([2.0])]
    of = {id(batches[0]): signal([0.0, 0.1], [0.3, 0.2]), id(batches[1]): signal([0.0], [0.5])}
    choice = choose_beta(recipe(strength=6.0), batches, lambda one: of[id(one)])
    scale = (0.09 + (0.01 + 0.04) + 2 * 0.25) / 4
    assert choice.scale == pytest.approx(scale)
    assert choice.yardstick == pytest.approx((0.09 + (0.01 + 0.04) + 0.25) / 3), "as drift is: without weights"
    assert choice.value == float(f"{6 / scale:.3g}") == 37.5
    assert (choice.pairs, choice.network_evaluations, choice.measured) == (3, 9, "contrast")
    assert "37.5" in choice.reason and "3 pairs" in choice.reason


def test_rounding_hides_the_order_of_summation() -> None:
    assert beta_for(4, 0.0173000001) == beta_for(4, 0.0172999999) == 231.0
    assert beta_for(4, 1.234e-7) == 32400000.0


def test_the_noise_scale_is_the_spread_of_the_margin_under_unrelated_movement() -> None:
    generator, error, dimensions, pairs = torch.Generator().manual_seed(0), 0.3, 64, 20_000
    draws = [torch.randn(pairs, dimensions, generator=generator) * math.sqrt(error) for _ in range(4)]
    u_win, r_win, u_lose, r_lose = draws
    per_beta = (u_lose * r_lose).mean(1) - (u_win * r_win).mean(1)
    assert float(per_beta.std()) == pytest.approx(noise_scale(error, dimensions), rel=0.03)


@pytest.mark.parametrize(
    ("contrast", "error", "measured", "scale", "yardstick"),
    [
        (0.04, 0.5, "noise", 0.5 * math.sqrt(2 / 50), 1.5 * 0.04),
        (0.3, 0.5, "contrast", 0.3, 1.5 * 0.3),
        (None, 0.5, "noise", 0.1, 0.1),
        (1e-13, 0.5, "noise", 0.1, 0.1),  # what rounding leaves where prompt and degraded prompt say the same
    ],
)
def test_with_forward_noise_the_larger_of_signal_and_spread_sets_beta(
    contrast: float | None, error: float, measured: str, scale: float, yardstick: float
) -> None:
    of = {  # the weighted means are contrast and error, the plain ones 1.5 times as large
        weight: Measured(
            None if contrast is None else torch.tensor([contrast * share]), torch.tensor([error * share]), 50, 3
        )
        for weight, share in ((1.0, 2.5), (3.0, 0.5))
    }
    batches = [micro([weight]) for weight in of]
    choice = choose_beta(recipe(strength=2.0), batches, lambda one: of[one.weight.item()])
    assert (choice.measured, choice.value) == (measured, pytest.approx(beta_for(2, scale)))
    assert (choice.scale, choice.yardstick) == (pytest.approx(scale), pytest.approx(yardstick))


@pytest.mark.parametrize("space", ["native", "x_0"])
@pytest.mark.parametrize(
    ("source", "contrast"), [("training_free", True), ("forward_noise", True), ("forward_noise", False)]
)
def test_a_batch_is_measured_in_the_space_of_the_recipe(space: str, source: str, contrast: bool) -> None:
    path = NoisePath.variance_preserving(torch.linspace(0.99, 0.05, 10, dtype=torch.float64), "epsilon")
    draws = torch.randn(3, 2, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    told, degraded = (Conditioning({"c": torch.tensor(values)}) for values in ([[1.0], [2.0]], [[0.5], [0.4]]))
    batch = PreferenceBatch(WinLose(draws[0], draws[1]), draws[2], torch.tensor([2, 7]), told, degraded)
    asked = []

    def predict(role: str, x_t: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        asked.append((role, len(x_t)))
        return x_t * conditioning.tensors["c"][..., None, None]

    target = Target.model_validate({"source": source, "error_space": space})
    found = measure_batch(batch, target, predict, path, contrast=contrast)
    alpha, sigma = (part.float() for part in path.coefficients(batch.timestep))
    win, lose = alpha * draws[0] + sigma * draws[2], alpha * draws[1] + sigma * draws[2]
    factor = sigma / alpha if space == "x_0" else torch.ones_like(sigma)
    if contrast:  # d = (c - c⁻) x_lose, nothing on the winning side
        d = factor * lose * torch.tensor([0.5, 1.6])[:, None, None, None]
        assert found.signal is not None
        torch.testing.assert_close(found.signal, d.square().flatten(1).mean(1), rtol=1e-4, atol=1e-6)
    else:
        assert found.signal is None
    if source == "forward_noise":
        c = torch.tensor([1.0, 2.0])[:, None, None, None]
        errors = [(factor * (c * side - draws[2])).square().flatten(1).mean(1) for side in (win, lose)]
        assert found.error is not None
        torch.testing.assert_close(found.error, (errors[0] + errors[1]) / 2, rtol=1e-4, atol=1e-6)
    else:
        assert found.error is None
    assert found.dimensions == 16
    assert asked == [("reference", found.network_evaluations)] == [("reference", 6 if contrast else 4)]


def test_no_signal_is_refused() -> None:
    with pytest.raises(UserError, match="degraded prompts"):
        choose_beta(recipe(), [micro([1.0])], lambda _: signal([0.0], [0.0]))


def test_automatic_beta_has_a_strength_of_the_objective_or_its_own() -> None:
    def objective(**fields: object) -> Objective:
        return Objective.model_validate({"beta": "auto", **fields})

    assert objective().strength == 4.0
    assert objective(name="ipo").strength == 0.5  # its best margin: one whole step along the signal
    assert objective(auto={"strength": 7}).beta_words == "auto (strength 7)"
    assert Objective(beta=200.0).beta_words == "200"
    for fields, words in (
        ({"name": "dspo"}, "beta 'auto' is not defined for name 'dspo'"),
        ({"auto": {"hold_drift": 3, "stop_drift": 2}}, "stop_drift .2. must be above hold_drift .3."),
        ({"name": "hinge", "protect": {"lose_reward": False}}, "protect: no effect with name 'hinge'"),
    ):
        with pytest.raises(ValidationError, match=words):
            objective(**fields)
