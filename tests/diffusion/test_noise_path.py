from __future__ import annotations

import itertools
from typing import Any, get_args

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from ddspo.diffusion.noise_path import NoisePath, PredictionType
from ddspo.errors import UserError

SPACES: tuple[PredictionType, ...] = get_args(PredictionType)
SD: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def vp_path(prediction_type: PredictionType = "epsilon") -> NoisePath:
    return NoisePath.from_scheduler(DDPMScheduler(**SD, prediction_type=prediction_type))


def flow_path(shift: float = 3.0) -> NoisePath:
    return NoisePath.from_scheduler(FlowMatchEulerDiscreteScheduler(shift=shift))


@pytest.mark.parametrize(
    ("prediction_type", "expected"),
    [("epsilon", 1.0), ("sample", 2.0), ("v_prediction", 0.8 * 1 - 0.6 * 2), ("flow_prediction", 1.0 - 2.0)],
)
def test_hand_computed_values_on_a_variance_preserving_path(prediction_type: PredictionType, expected: float) -> None:
    path = NoisePath.variance_preserving(torch.tensor([0.9, 0.64], dtype=torch.float64), prediction_type)
    x_0, noise = torch.full((1, 1, 1, 1), 2.0, dtype=torch.float64), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    timestep = torch.tensor([1])
    assert path.add_noise(x_0, noise, timestep).item() == pytest.approx(0.8 * 2 + 0.6 * 1)
    assert path.target(x_0, noise, timestep).item() == pytest.approx(expected)


def test_hand_computed_values_on_a_flow_path() -> None:
    path = NoisePath.flow(torch.tensor([0.75, 0.25]), torch.tensor([750.0, 250.0]))
    x_0, noise = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), -1.0)
    timestep = torch.tensor([750.0])
    assert path.add_noise(x_0, noise, timestep).item() == 0.25 * 2 + 0.75 * -1
    assert path.target(x_0, noise, timestep).item() == -3.0
    assert path.timesteps.tolist() == [250.0, 750.0]
    assert path.is_flow
    assert path.num_train_timesteps == 2


@pytest.mark.parametrize("path", [vp_path(), flow_path()], ids=["variance_preserving", "flow"])
@pytest.mark.parametrize(("source", "to"), list(itertools.product(SPACES, SPACES)))
def test_conversions_agree_with_definitions_at_every_timestep(
    path: NoisePath, source: PredictionType, to: PredictionType
) -> None:
    timestep = path.timesteps[:-1] if path.is_flow else path.timesteps  # alpha is 0 at the last place of a flow path
    x_0, noise = normal(len(timestep), 2, 3, 3), normal(len(timestep), 2, 3, 3, seed=1)
    x_t = path.add_noise(x_0, noise, timestep)
    alpha, sigma = path.coefficients(timestep)
    meaning = {
        "epsilon": noise,
        "sample": x_0,
        "v_prediction": alpha * noise - sigma * x_0,
        "flow_prediction": noise - x_0,
    }
    converted = path.convert(meaning[source], x_t, timestep, to=to, source=source)
    torch.testing.assert_close(converted, meaning[to], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", [vp_path(), flow_path()], ids=["variance_preserving", "flow"])
@pytest.mark.parametrize(("source", "to"), list(itertools.permutations(SPACES, 2)))
def test_any_prediction_survives_a_round_trip(path: NoisePath, source: PredictionType, to: PredictionType) -> None:
    timestep = path.timesteps[torch.tensor([0, 100, 500, 900])]
    prediction, x_t = normal(4, 2, 3, 3), normal(4, 2, 3, 3, seed=1)  # not consistent with each other: no network is
    there = path.convert(prediction, x_t, timestep, to=to, source=source)
    back = path.convert(there, x_t, timestep, to=source, source=to)
    torch.testing.assert_close(back, prediction, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction_type", SPACES)
def test_native_target_converts_back_to_x_0_and_noise(prediction_type: PredictionType) -> None:
    path = vp_path(prediction_type)
    x_0, noise, timestep = normal(3, 4, 2, 2), normal(3, 4, 2, 2, seed=1), torch.tensor([3, 500, 999])
    x_t, target = path.add_noise(x_0, noise, timestep), path.target(x_0, noise, timestep)
    torch.testing.assert_close(path.to_x_0(target, x_t, timestep), x_0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(path.to_noise(target, x_t, timestep), noise, rtol=1e-9, atol=1e-9)


def test_conversions_where_the_signal_is_gone() -> None:
    path = NoisePath.from_scheduler(DDPMScheduler(**SD, prediction_type="v_prediction", rescale_betas_zero_snr=True))
    timestep, x_0, noise = torch.tensor([999]), normal(1, 1, 2, 2), normal(1, 1, 2, 2, seed=1)
    x_t = path.add_noise(x_0, noise, timestep)
    assert path.alphas[-1] == 0
    assert torch.equal(x_t, noise)
    prediction = path.target(x_0, noise, timestep)
    torch.testing.assert_close(path.to_x_0(prediction, x_t, timestep), x_0)
    torch.testing.assert_close(path.to_noise(prediction, x_t, timestep), noise)
    assert not path.convert(noise, x_t, timestep, to="sample", source="epsilon").isfinite().any()
    assert path.convert(noise, x_t, timestep, to="epsilon", source="epsilon") is noise


def test_conversion_of_a_clean_sample_to_noise_is_undefined() -> None:
    path = NoisePath.variance_preserving(torch.tensor([1.0, 0.5]), "sample")
    x_0, timestep = normal(1, 1, 2, 2), torch.tensor([0])
    assert not path.to_noise(x_0, x_0, timestep).isfinite().any()
    assert path.convert(x_0, x_0, timestep, to="sample", source="v_prediction").isfinite().all()


@pytest.mark.parametrize(
    "scheduler",
    [
        DDPMScheduler(**SD),
        DDIMScheduler(**SD),
        PNDMScheduler(**SD),
        DDPMScheduler(**SD, rescale_betas_zero_snr=True),
        DDIMScheduler(**SD, rescale_betas_zero_snr=True),
    ],
    ids=["ddpm", "ddim", "pndm", "ddpm_zero_snr", "ddim_zero_snr"],
)
def test_noise_equals_that_of_the_scheduler(scheduler: Any) -> None:
    path = NoisePath.from_scheduler(scheduler)
    assert path.timesteps.tolist() == list(range(1000))
    x_0, noise = normal(1000, 1, 2, 2, dtype=torch.float32), normal(1000, 1, 2, 2, seed=1, dtype=torch.float32)
    expected = scheduler.add_noise(x_0, noise, path.timesteps)
    torch.testing.assert_close(path.add_noise(x_0, noise, path.timesteps), expected, rtol=0, atol=1e-6)


def test_velocity_equals_that_of_the_scheduler() -> None:
    scheduler = DDPMScheduler(**SD, prediction_type="v_prediction")
    path = NoisePath.from_scheduler(scheduler)
    x_0, noise = normal(1000, 1, 2, 2, dtype=torch.float32), normal(1000, 1, 2, 2, seed=1, dtype=torch.float32)
    expected = scheduler.get_velocity(x_0, noise, path.timesteps)
    torch.testing.assert_close(path.target(x_0, noise, path.timesteps), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
def test_euler_inputs_lie_on_the_path(spacing: str) -> None:
    scheduler = EulerDiscreteScheduler(**SD, timestep_spacing=spacing)
    path = NoisePath.from_scheduler(scheduler)
    scheduler.set_timesteps(7)
    x_0, noise = normal(1, 1, 4, 4, dtype=torch.float32), normal(1, 1, 4, 4, seed=1, dtype=torch.float32)
    for timestep in scheduler.timesteps:
        scheduler._step_index = None
        scaled = scheduler.scale_model_input(scheduler.add_noise(x_0, noise, timestep[None]), timestep)
        torch.testing.assert_close(path.add_noise(x_0, noise, timestep[None]), scaled, rtol=0, atol=1e-4)


@pytest.mark.parametrize("scheduler_class", [DPMSolverMultistepScheduler, UniPCMultistepScheduler])
def test_solvers_without_flow_sigmas_are_variance_preserving(scheduler_class: Any) -> None:
    path = NoisePath.from_scheduler(scheduler_class(**SD))
    reference = vp_path()
    assert not path.is_flow
    assert torch.equal(path.alphas, reference.alphas)
    assert torch.equal(path.sigmas, reference.sigmas)
    torch.testing.assert_close(path.alphas**2 + path.sigmas**2, torch.ones(1000, dtype=torch.float64))


@pytest.mark.parametrize(
    "scheduler", [EulerDiscreteScheduler(**SD), FlowMatchEulerDiscreteScheduler(shift=3.0)], ids=["euler", "flow"]
)
def test_a_scheduler_that_has_sampled_gives_the_same_path(scheduler: Any) -> None:
    before = NoisePath.from_scheduler(scheduler)
    scheduler.set_timesteps(5)
    after = NoisePath.from_scheduler(scheduler)
    for name in ("alphas", "sigmas", "timesteps"):
        assert torch.equal(getattr(before, name), getattr(after, name))


def test_noise_grows_with_the_timestep() -> None:
    for path in (vp_path(), flow_path()):
        assert (path.timesteps.diff() > 0).all()
        assert (path.sigmas.diff() > 0).all()
        assert (path.alphas.diff() < 0).all()


def test_coefficients_are_tabulated_values_and_straight_lines_between() -> None:
    path = vp_path()
    alpha, sigma = path.coefficients(path.timesteps)
    assert alpha.shape == (1000, 1, 1, 1)
    assert torch.equal(alpha.flatten(), path.alphas)
    assert torch.equal(sigma.flatten(), path.sigmas)
    middle, _ = path.coefficients(torch.tensor([10.25]), dims=2)
    assert middle.shape == (1, 1)
    assert middle.item() == pytest.approx(0.75 * path.alphas[10].item() + 0.25 * path.alphas[11].item(), abs=1e-15)
    ends, _ = path.coefficients(torch.tensor([-5.0, 2000.0]))
    assert ends.flatten().tolist() == [path.alphas[0].item(), path.alphas[-1].item()]


def test_low_precision_is_rounded_once() -> None:
    path = vp_path()
    x_0, noise = normal(64, 4, 4, 4).bfloat16(), normal(64, 4, 4, 4, seed=1).bfloat16()
    timestep = path.timesteps[::15][:64]
    x_t = path.add_noise(x_0, noise, timestep)
    assert x_t.dtype == torch.bfloat16
    assert torch.equal(x_t, path.add_noise(x_0.float(), noise.float(), timestep).bfloat16())


def test_any_number_of_dimensions() -> None:
    path = vp_path()
    points, noise, timestep = normal(5, 2), normal(5, 2, seed=1), torch.tensor([0, 10, 100, 500, 999])
    pictures = path.add_noise(points[..., None, None], noise[..., None, None], timestep)
    assert torch.equal(path.add_noise(points, noise, timestep), pictures[..., 0, 0])


def test_foreign_schedulers_are_refused_by_name() -> None:
    with pytest.raises(UserError, match="EDMEulerScheduler: neither variance preserving"):
        NoisePath.from_scheduler(EDMEulerScheduler())
    scheduler = DDPMScheduler(**SD)
    scheduler.register_to_config(prediction_type="score")
    with pytest.raises(UserError, match="prediction_type 'score' is not one of epsilon, v_prediction"):
        NoisePath.from_scheduler(scheduler)
