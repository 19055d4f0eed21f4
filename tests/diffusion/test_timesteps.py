from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from scipy import stats
from torch import Tensor

from ddspo.diffusion.noise_path import NoisePath
from ddspo.diffusion.timesteps import draw_timesteps, timestep_weight
from ddspo.errors import UserError
from ddspo.recipe import Timesteps

VP = NoisePath.from_scheduler(DDPMScheduler())
FLOW = NoisePath.from_scheduler(FlowMatchEulerDiscreteScheduler(shift=3.0))
ALMOST_ONE = 1 - 2.0**-53


def even(count: int) -> Tensor:
    """Uniforms in the middle of `count` equal cells."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def test_uniform_draws_every_timestep_equally_often() -> None:
    drawn = draw_timesteps(Timesteps(), VP, even(3000))
    assert drawn.dtype == torch.int64
    assert torch.equal(drawn.bincount(minlength=1000), torch.full((1000,), 3))


@pytest.mark.parametrize("sampler", ["uniform", "logit_normal"])
def test_extreme_uniforms_stay_on_the_schedule(sampler: str) -> None:
    extremes = torch.tensor([0.0, ALMOST_ONE], dtype=torch.float64)
    assert draw_timesteps(Timesteps(sampler=sampler), VP, extremes).tolist() == [0, 999]
    nearly_one = torch.tensor([1 - 2.0**-24])  # the largest float32 below 1
    assert 990 < draw_timesteps(Timesteps(sampler=sampler), VP, nearly_one).item() <= 999


@pytest.mark.parametrize("sampler", ["uniform", "logit_normal"])
def test_a_range_is_kept_and_reached(sampler: str) -> None:
    drawn = draw_timesteps(Timesteps(sampler=sampler, low=0.25, high=0.75), VP, even(100_000))
    assert (drawn.min().item(), drawn.max().item()) == (250, 749)


def test_draws_grow_with_the_uniform() -> None:
    for timesteps in (Timesteps(sampler="uniform"), Timesteps(sampler="logit_normal", logit_mean=0.4)):
        assert (draw_timesteps(timesteps, VP, even(5000)).diff() >= 0).all()


def test_logit_normal_has_the_quantiles_of_its_definition() -> None:
    settings = Timesteps(sampler="logit_normal", logit_mean=0.5, logit_std=0.8)
    u = even(999)
    expected = torch.sigmoid(torch.from_numpy(stats.norm.ppf(u.numpy(), loc=0.5, scale=0.8)))
    assert torch.equal(draw_timesteps(settings, VP, u), (1000 * expected).long())


def test_logit_normal_in_a_range_is_the_distribution_restricted_to_it() -> None:
    whole = draw_timesteps(Timesteps(sampler="logit_normal"), VP, even(400_000))
    within = draw_timesteps(Timesteps(sampler="logit_normal", low=0.2, high=0.4), VP, even(100_000))
    inside = whole[(whole >= 200) & (whole < 400)]
    for share in (0.1, 0.5, 0.9):
        assert within.double().quantile(share) == pytest.approx(inside.double().quantile(share).item(), abs=1)


def test_larger_logit_mean_means_more_noise() -> None:
    medians = [
        draw_timesteps(Timesteps(sampler="logit_normal", logit_mean=mean), VP, torch.tensor([0.5])).item()
        for mean in (-1.0, 0.0, 1.0)
    ]
    assert medians == [int(1000 / (1 + 2.718281828459045**-mean)) for mean in (-1.0, 0.0, 1.0)]


def test_flow_draws_are_what_the_network_is_fed() -> None:
    drawn = draw_timesteps(Timesteps(), FLOW, torch.tensor([0.0, 0.4999, ALMOST_ONE], dtype=torch.float64))
    assert drawn.dtype == torch.float32
    # The place on the schedule is before the shift: half-way is sigma = 3 · 0.5 / (1 + 2 · 0.5) = 0.75.
    assert drawn.tolist() == pytest.approx([1000 * 0.003 / 1.002, 750.0, 1000.0])


def test_a_range_of_one_point_and_a_reversed_range() -> None:
    assert draw_timesteps(Timesteps(low=0.5, high=0.5), VP, even(4)).tolist() == [500] * 4
    assert draw_timesteps(Timesteps(low=1.0, high=1.0), VP, even(2)).tolist() == [999] * 2
    with pytest.raises(UserError, match=r"low \(0.6\) exceeds high \(0.4\)"):
        draw_timesteps(Timesteps(low=0.6, high=0.4), VP, even(2))


def test_weights() -> None:
    timestep = torch.tensor([0, 333, 999])
    assert timestep_weight(Timesteps(), VP, timestep).tolist() == [1.0, 1.0, 1.0]
    linear = timestep_weight(Timesteps(weight="linear"), VP, timestep)
    assert linear.dtype == torch.float32
    assert linear.tolist() == pytest.approx([0.0, 333 / 999, 1.0])
    assert timestep_weight(Timesteps(weight="linear"), FLOW, torch.tensor([250.0, 1000.0])).tolist() == [0.25, 1.0]


def test_the_weight_of_high_noise_is_its_share_in_the_variance_of_x_t() -> None:
    timestep = torch.tensor([0, 333, 999])
    found = timestep_weight(Timesteps(weight="high_noise"), VP, timestep)
    assert found.dtype == torch.float32
    cumprod = DDPMScheduler().alphas_cumprod[timestep].double()
    torch.testing.assert_close(found.double(), 1 - cumprod, rtol=1e-6, atol=1e-7)  # alpha² + sigma² = 1
    flow = timestep_weight(Timesteps(weight="high_noise"), FLOW, torch.tensor([250.0, 500.0, 1000.0]))
    assert flow.tolist() == pytest.approx([0.25**2 / (0.25**2 + 0.75**2), 0.5, 1.0])
