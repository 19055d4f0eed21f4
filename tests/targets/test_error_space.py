"""Errors measured in x_0: a known factor on squared errors, by hand and through a whole step."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from ddspo.diffusion.noise_path import NoisePath, PredictionType
from ddspo.errors import UserError
from ddspo.objectives.errors import squared_error
from ddspo.recipe import Recipe
from ddspo.targets.error_space import sides_in_x_0
from ddspo.tensors import Conditioning, PreferenceBatch, WinLose
from ddspo.training.step import make_step

CUMPROD = torch.linspace(0.999, 0.01, 1000, dtype=torch.float64)


def path(kind: PredictionType) -> NoisePath:
    if kind == "flow_prediction":
        sigmas = torch.linspace(0.001, 1.0, 1000, dtype=torch.float64)
        return NoisePath.flow(sigmas, 1000 * sigmas)
    return NoisePath.variance_preserving(CUMPROD, kind)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow_prediction", "sample"])
def test_differences_are_those_of_x_0(kind: PredictionType) -> None:
    noise_path, generator = path(kind), torch.Generator().manual_seed(0)
    one, two, x_t = (torch.randn(2, 3, 4, 4, generator=generator) for _ in range(3))
    timestep = noise_path.timesteps[torch.tensor([200, 700])]
    scaled = sides_in_x_0(WinLose(one, two), timestep, noise_path)
    difference = noise_path.to_x_0(one, x_t, timestep) - noise_path.to_x_0(two, x_t, timestep)
    torch.testing.assert_close(scaled.win - scaled.lose, difference, rtol=1e-4, atol=1e-5)
    alpha, sigma = (tensor.flatten() for tensor in noise_path.coefficients(timestep))
    factor = {"epsilon": sigma / alpha, "v_prediction": sigma, "flow_prediction": sigma, "sample": sigma / sigma}[kind]
    torch.testing.assert_close(
        squared_error(scaled.win, scaled.lose).double(), factor**2 * squared_error(one, two).double(), rtol=1e-5, atol=0
    )


def test_a_step_in_x_0_is_one_with_beta_times_sigma_squared() -> None:
    noise_path, generator = path("flow_prediction"), torch.Generator().manual_seed(1)
    win, lose, noise = (torch.randn(1, 2, 4, 4, generator=generator) for _ in range(3))
    rows = Conditioning({"text": torch.ones(1, 1)})
    batch = PreferenceBatch(
        WinLose(win, lose),
        noise,
        noise_path.timesteps[torch.tensor([299])],
        rows,
        Conditioning({"text": -rows.tensors["text"]}),
    )

    def predict(role: str, x_t: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        return x_t * (0.9 if role == "policy" else 1.1) + conditioning.tensors["text"].reshape(-1, 1, 1, 1)

    outcomes = {}
    for space in ("native", "x_0"):
        recipe = Recipe.model_validate({"target": {"error_space": space}, "objective": {"beta": 100.0}})
        outcomes[space] = partial(make_step(recipe, predict, noise_path), batch)
    sigma = noise_path.coefficients(batch.timestep)[1].item()
    assert 0.2 < sigma < 0.4
    expected = outcomes["native"](beta=100.0 * sigma**2)
    got = outcomes["x_0"]()
    torch.testing.assert_close(got.loss, expected.loss, rtol=1e-5, atol=0)
    assert got.contrast is not None and expected.contrast is not None
    torch.testing.assert_close(got.contrast, expected.contrast * sigma**2, rtol=1e-4, atol=0)


def test_denoising_has_no_error_space() -> None:
    with pytest.raises((UserError, ValueError), match="error_space has no effect"):
        Recipe.model_validate({"target": {"error_space": "x_0"}, "objective": {"name": "denoising"}})
