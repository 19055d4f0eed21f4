"""The mixture of Gaussians: conditions, the reference's closed-form noise prediction, a policy on top, and measures.

Condition k wants mode k. The reference mixes conditions up: a share MIXED of its mass lies evenly on all modes. The
degraded condition says nothing: all modes alike. Everything runs through the library's own noise path.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ddspo.diffusion.noise_path import NoisePath
from ddspo.tensors import Conditioning

MODES = 8
NOTHING = MODES
"""the condition that says nothing"""
RADIUS, DEVIATION, MIXED = 2.0, 0.25, 0.35
TIMESTEPS, SAMPLING_STEPS = 1000, 25

ANGLES = 2 * math.pi * torch.arange(MODES) / MODES
CENTERS = RADIUS * torch.stack([ANGLES.cos(), ANGLES.sin()], 1)
PATH = NoisePath.variance_preserving(
    torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, TIMESTEPS, dtype=torch.float64) ** 2, 0), "epsilon"
)
Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x_t [B, 2], timestep [B], condition [B]) -> noise [B, 2]"""


def mode_shares(mixed: float = MIXED) -> Tensor:
    """Mass that each condition puts on each mode, [MODES + 1, MODES]; the last row is of `NOTHING`."""
    own = torch.eye(MODES) * (1 - mixed) + mixed / MODES
    return torch.cat([own, torch.full((1, MODES), 1 / MODES)])


def noise_prediction(x_t: Tensor, timestep: Tensor, condition: Tensor, shares: Tensor | None = None) -> Tensor:
    """E[noise | x_t, condition] in closed form.

    x_t given mode k is normal with mean alpha center_k and variance v = alpha² DEVIATION² + sigma²; with r_k the
    probability of mode k given x_t, noise = sigma sum_k r_k (x_t - alpha center_k) / v.

    Args:
        x_t: [B, 2].
        timestep, condition: [B].
        shares: from `mode_shares`; None: the reference's.
    """
    alpha, sigma = (value.to(x_t.dtype) for value in PATH.coefficients(timestep, dims=2))
    variance = alpha**2 * DEVIATION**2 + sigma**2
    distance = x_t[:, None] - alpha[..., None] * CENTERS
    logits = (mode_shares() if shares is None else shares)[condition].log() - distance.square().sum(2) / (2 * variance)
    return sigma * (logits.softmax(1)[..., None] * distance).sum(1) / variance


class Policy(nn.Module):
    """The reference plus a small network that starts at exactly zero: policy = reference + u, u = 0."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.condition = nn.Embedding(MODES + 1, 32)
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, -7, 16)))
        layers: list[nn.Module] = []
        for inputs in (2 + 32 + 32, width, width):
            layers += [nn.Linear(inputs, width), nn.SiLU()]
        self.network = nn.Sequential(*layers, nn.Linear(width, 2))
        nn.init.zeros_(self.network[-1].weight)
        nn.init.zeros_(self.network[-1].bias)

    def forward(self, x_t: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """Noise, [B, 2]."""
        phase = timestep[:, None] * self.frequencies
        features = torch.cat([x_t, phase.sin(), phase.cos(), self.condition(condition)], 1)
        return noise_prediction(x_t, timestep, condition) + self.network(features)


def conditioning(condition: Tensor) -> Conditioning:
    """A condition as the library passes it."""
    return Conditioning({"condition": condition})


@torch.no_grad()
def sample(predict: Predict, condition: Tensor, x_t: Tensor, guidance_scale: float = 1.0) -> Tensor:
    """DDIM without noise from x_t [B, 2] of unit variance, with `NOTHING` as the negative prompt of guidance."""
    places = torch.linspace(TIMESTEPS - 1, 0, SAMPLING_STEPS + 1).round().long()
    for here, there in zip(places[:-1], places[1:], strict=True):
        timestep = here.expand(len(x_t))
        noise = predict(x_t, timestep, condition)
        if guidance_scale != 1:
            away = predict(x_t, timestep, torch.full_like(condition, NOTHING))
            noise = away + guidance_scale * (noise - away)
        x_0 = PATH.to_x_0(noise, x_t, timestep)
        last = there == places[-1]
        x_t = x_0 if last else PATH.add_noise(x_0, noise, there.expand(len(x_t)))
    return x_t


@dataclass(frozen=True)
class Measures:
    """How good samples are, on average over conditions.

    Attributes:
        accuracy: share that lies nearest to the mode of its condition.
        mass: share within three deviations of that mode.
        bias: distance from the mode to the mean of the samples nearest to it, in deviations; mean over modes.
        spread: standard deviation of the samples nearest to their mode over the true one; 1 is right.
        frechet: Fréchet distance between all samples of a condition and its mode, in deviations; mean over conditions.
            Mass alone would praise samples that collapse onto the center of their mode; this counts what lies in the
            wrong place and what is too narrow in one number.
    """

    accuracy: float
    mass: float
    bias: float
    spread: float
    frechet: float


def measure(predict: Predict, count: int = 4000, seed: int = 5, guidance_scale: float = 1.0) -> Measures:
    """Draw `count` samples, the same start for every policy, and look where they lie."""
    condition = torch.arange(count) % MODES
    x_t = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return measure_samples(sample(predict, condition, x_t, guidance_scale), condition)


def measure_samples(x_0: Tensor, condition: Tensor) -> Measures:
    """The measures of samples [B, 2] drawn for conditions [B]. Samples that are not finite count as far away."""
    x_0 = x_0.nan_to_num(1e6, 1e6, -1e6)
    right = torch.cdist(x_0, CENTERS).argmin(1) == condition
    offset = x_0 - CENTERS[condition]
    groups = [offset[right & (condition == mode)] for mode in range(MODES)]
    groups = [group for group in groups if len(group) > 1]
    return Measures(
        accuracy=right.float().mean().item(),
        mass=(offset.norm(dim=1) < 3 * DEVIATION).float().mean().item(),
        bias=sum(group.mean(0).norm().item() for group in groups) / (DEVIATION * max(1, len(groups))),
        spread=sum(group.std(0).mean().item() for group in groups) / (DEVIATION * max(1, len(groups))),
        frechet=sum(_frechet(offset[condition == mode].double()) for mode in range(MODES)) / (DEVIATION * MODES),
    )


def _frechet(offset: Tensor) -> float:
    """Between normals: of mean m and covariance S of offsets [N, 2] from a mode, and of the mode, 0 and DEVIATION² I.

    distance² = |m|² + tr S + 2 DEVIATION² - 2 DEVIATION tr S^½, where in the plane tr S^½ = (tr S + 2 (det S)^½)^½.
    """
    covariance = offset.T.cov(correction=0)
    trace, root = covariance.trace(), covariance.det().clamp(min=0).sqrt()
    squared = offset.mean(0).square().sum() + trace + 2 * DEVIATION**2 - 2 * DEVIATION * (trace + 2 * root).sqrt()
    return squared.clamp(min=0).sqrt().item()
