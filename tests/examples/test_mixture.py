"""The mixture of Gaussians: its closed form is right, and it shows what it is there to show."""

from __future__ import annotations

import math
import pickle
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))  # examples are no part of the package

from examples.mixture.__main__ import best_betas, interval, over_seeds, table
from examples.mixture.cells import Cell, Found, carry_out, carry_out_all
from examples.mixture.figure import Curve, Panel, draw, true_samples
from examples.mixture.training import METHODS, PAIRS, batches, contrast, make_pairs, roles, train
from examples.mixture.world import (
    CENTERS,
    DEVIATION,
    MIXED,
    MODES,
    NOTHING,
    PATH,
    Measures,
    Policy,
    measure,
    measure_samples,
    mode_shares,
    noise_prediction,
)  # fmt: skip

from ddspo.objectives import OBJECTIVES


def test_the_noise_prediction_is_the_score_of_the_mixture() -> None:
    """noise = -sigma · d/dx log p(x_t | condition), by automatic differentiation of the density in float64."""
    generator = torch.Generator().manual_seed(0)
    x_t = (2 * torch.randn(64, 2, generator=generator, dtype=torch.float64)).requires_grad_()
    timestep = torch.randint(0, 1000, (64,), generator=generator)
    condition = torch.randint(0, MODES + 1, (64,), generator=generator)
    alpha, sigma = PATH.coefficients(timestep, dims=2)
    variance = alpha**2 * DEVIATION**2 + sigma**2
    distance = (x_t[:, None] - alpha[..., None] * CENTERS.double()).square().sum(2)
    density = (mode_shares().double()[condition].log() - distance / (2 * variance) - variance.log()).logsumexp(1)
    (score,) = torch.autograd.grad(density.sum(), x_t)
    torch.testing.assert_close(
        noise_prediction(x_t.detach(), timestep, condition), -sigma * score, rtol=1e-5, atol=1e-6
    )


def test_the_reference_mixes_conditions_up_and_knows_nothing_of_nothing() -> None:
    shares = mode_shares()
    torch.testing.assert_close(shares.sum(1), torch.ones(MODES + 1))
    assert shares[3, 3] == pytest.approx(1 - MIXED + MIXED / MODES)
    assert shares[NOTHING].tolist() == pytest.approx([1 / MODES] * MODES)
    assert measure(noise_prediction, 2000).mass == pytest.approx(0.67, abs=0.02)


def test_measures_of_samples_that_are_known() -> None:
    perfect = measure_samples(*true_samples(8000))
    assert perfect.accuracy > 0.99 and perfect.spread == pytest.approx(1, abs=0.03) and perfect.bias < 0.1
    assert perfect.mass == pytest.approx(1 - math.exp(-4.5), abs=0.005), "a normal in the plane within three deviations"
    condition = torch.arange(800) % MODES
    shifted = measure_samples(CENTERS[condition] + torch.tensor([4 * DEVIATION, 0.0]) * 0.5, condition)
    assert shifted.bias == pytest.approx(2) and shifted.spread == pytest.approx(0, abs=1e-6)
    # Of a point and a normal: |m|² + 2 DEVIATION², in deviations.
    assert shifted.frechet == pytest.approx(math.sqrt(2**2 + 2), rel=1e-5) and perfect.frechet < 0.1
    stretched = CENTERS[condition] + torch.tensor([3.0, 1.0]) * (true_samples(800)[0] - CENTERS[condition])
    assert measure_samples(stretched, condition).frechet == pytest.approx(3 - 1, rel=0.1)
    lost = measure_samples(torch.full((800, 2), math.nan), condition)
    assert lost.mass == 0


def test_the_policy_starts_as_the_reference() -> None:
    batch = next(batches(make_pairs(0), 0, 1))
    predict = roles(Policy())
    x_t: Tensor = PATH.add_noise(batch.x_0.win, batch.noise, batch.timestep)
    policy, reference = (predict(role, x_t, batch.timestep, batch.prompt) for role in ("policy", "reference"))
    assert torch.equal(policy, reference) and policy.requires_grad and not reference.requires_grad
    assert len(make_pairs(0).condition) == PAIRS and 0.01 < contrast(0) < 1


def test_every_objective_of_the_library_takes_part() -> None:
    assert {dict(method.objective)["name"] for method in METHODS.values()} == set(OBJECTIVES)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_something_in_a_few_steps(name: str) -> None:
    trained = train(METHODS[name], METHODS[name].best, steps=3)
    assert math.isfinite(trained.loss)
    assert any(parameter.abs().sum() > 0 for parameter in trained.policy.network[-1].parameters()), (
        "u is no longer zero"
    )


@pytest.mark.slow
def test_too_small_a_beta_destroys_samples_and_the_right_one_orders_the_methods() -> None:
    """Loss 0 with everything lost at beta 5; DDSPO above Diffusion-DPO above the reference at their best."""
    reference = measure(noise_prediction).mass
    for name in ("Diffusion-DPO", "DDSPO"):
        wrecked = train(METHODS[name], 5.0)
        assert wrecked.loss < 0.01 and wrecked.drift is not None and wrecked.drift > 100
        assert measure(wrecked.policy).mass < 0.05 < measure(wrecked.policy).accuracy
    ddspo, dpo = (measure(train(METHODS[name], METHODS[name].best).policy).mass for name in ("DDSPO", "Diffusion-DPO"))
    assert ddspo >= dpo >= reference + 0.1
    assert ddspo > 0.95


@pytest.mark.slow
def test_automatic_beta_stays_inside_the_safe_window() -> None:
    trained = train(METHODS["DDSPO"], "auto")
    assert measure(trained.policy).mass > measure(noise_prediction).mass + 0.1


def test_figure_and_table_hold_what_they_are_given() -> None:
    samples, condition = true_samples(80)
    svg = draw([Panel("one", "a note", samples, condition)], [Curve("DDSPO", [(5, 0.0), (400, 0.9)], (30, 0.5))], 0.67)
    assert (
        svg.startswith("<svg") and svg.count('class="dots"') == MODES and "http" not in svg.replace("http://www.w3", "")
    )
    reach = 12.7062 * math.sqrt(0.02) / math.sqrt(2)
    assert interval([0.5, 0.7]) == pytest.approx({"mean": 0.6, "low": 0.6 - reach, "high": 0.6 + reach}, rel=1e-4)
    row = over_seeds("DDSPO", False, [found(400.0, judging=0.5, drift=2.0), found(400.0, judging=0.7, drift=3.0)])
    assert (row["seeds"], row["drift"], row["mass"]["mean"]) == (2, 2.5, pytest.approx(0.6))
    assert "| DDSPO | 400 | 0.400 [" in table(measure_samples(samples, condition), [row])


def found(beta: float, choosing: float = 0.0, judging: float = 0.0, drift: float | None = None) -> Found:
    return Found(beta, drift, *(Measures(0.5, mass, 0.1, 1.0, 1 - mass) for mass in (choosing, judging)), [])


def test_the_samples_that_choose_a_beta_are_not_those_that_judge_it() -> None:
    def told(cells: list[Cell]) -> dict[Cell, Found]:
        return {cell: found(cell.beta, choosing=cell.beta == 100, judging=cell.beta == 20) for cell in cells}  # type: ignore[arg-type]

    best, tried = best_betas(["DDSPO", "fine-tuning"], told)
    assert best == {"DDSPO": 100} and tried["fine-tuning"] == []


def test_cells_are_carried_out_once_each_and_cross_from_process_to_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("examples.mixture.cells.train", partial(train, steps=2))
    cells = [Cell("fine-tuning", None, seed) for seed in (0, 1, 0)]
    results = carry_out_all(cells, processes=1)
    assert results == {cell: carry_out(cell) for cell in cells[:2]} and len(results) == 2
    assert results[cells[0]].judging != results[cells[1]].judging
    assert pickle.loads(pickle.dumps((carry_out, results))) == (carry_out, results)
