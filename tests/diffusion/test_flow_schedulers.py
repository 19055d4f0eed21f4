"""Schedulers of flow matching and the straight path between picture and noise that they share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler

from ddspo.diffusion.noise_path import NoisePath


def flow_path(shift: float) -> NoisePath:
    return NoisePath.from_scheduler(FlowMatchEulerDiscreteScheduler(shift=shift))


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchEulerDiscreteScheduler(),
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    ],
    ids=["plain", "sd3", "flux"],
)
def test_flow_noise_equals_that_of_the_scheduler_at_every_timestep(scheduler: Any) -> None:
    path = NoisePath.from_scheduler(scheduler)
    assert path.is_flow
    assert path.prediction_type == "flow_prediction"
    assert torch.equal(path.timesteps, scheduler.timesteps.flip(0))
    torch.testing.assert_close(path.timesteps.double(), 1000 * path.sigmas, rtol=1e-6, atol=0)
    x_0, noise = torch.randn(2, 1000, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    expected = scheduler.scale_noise(x_0, path.timesteps, noise)
    torch.testing.assert_close(path.add_noise(x_0, noise, path.timesteps), expected, rtol=0, atol=1e-6)


def test_other_flow_matching_schedulers_have_the_same_path() -> None:
    path, euler = NoisePath.from_scheduler(FlowMatchHeunDiscreteScheduler(shift=3.0)), flow_path(shift=3.0)
    assert torch.equal(path.timesteps, euler.timesteps)
    assert torch.equal(path.sigmas, euler.sigmas)


def test_sana_config_is_a_shifted_flow_path() -> None:
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    path, sd3 = NoisePath.from_scheduler(scheduler), flow_path(shift=3.0)
    assert path.is_flow
    assert path.prediction_type == "flow_prediction"
    assert torch.equal(path.sigmas, sd3.sigmas)
    scheduler.set_timesteps(20)
    sigmas = path.coefficients(scheduler.timesteps)[1].flatten()
    # This scheduler feeds the network whole numbers, so sigma is known to within 1/1000 of it.
    torch.testing.assert_close(sigmas, scheduler.sigmas[:-1].double(), rtol=0, atol=1e-3)
