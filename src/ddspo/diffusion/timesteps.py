"""Where on the noise path to train, and how much each place counts: two separate choices.

Draws are inverse cumulative distributions of given uniforms: stateless seeds decide, no generator is held here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import UserError
from .noise_path import NoisePath

if TYPE_CHECKING:
    from ..recipe import Timesteps


def draw_timesteps(settings: Timesteps, noise_path: NoisePath, uniforms: Tensor) -> Tensor:
    """One timestep per uniform, increasing with it.

    A place p in [0, 1] on the schedule (0 = clean, 1 = noise) follows the chosen distribution, restricted to
    [low, high]; the timestep is the one at index floor(p T).

        uniform:       p = low + (high - low) u
        logit_normal:  p = sigmoid(logit_mean + logit_std z),  z standard normal     (SD3, arXiv 2403.03206)

    diffusers' SD3 scripts index a falling schedule with p, so their `logit_mean` has the opposite sign of ours.

    Args:
        settings: sampler, low, high, logit_mean, logit_std.
        noise_path: gives T and what the network is fed.
        uniforms: [B] in [0, 1).

    Returns:
        [B], in the dtype of `noise_path.timesteps`.

    Raises:
        UserError: low exceeds high.
    """
    if settings.low > settings.high:
        raise UserError(f"timesteps: low ({settings.low}) exceeds high ({settings.high}); 0 is clean, 1 is pure noise")
    u = uniforms.double()
    if settings.sampler == "uniform":
        place = settings.low + (settings.high - settings.low) * u
    else:
        low, high = (_logit_normal_cdf(end, settings) for end in (settings.low, settings.high))
        z = torch.special.ndtri(low + (high - low) * u)
        place = torch.sigmoid(settings.logit_mean + settings.logit_std * z)
    count = noise_path.num_train_timesteps
    index = (place * count).long().clamp(0, count - 1)
    return noise_path.timesteps.to(index.device)[index]


def timestep_weight(settings: Timesteps, noise_path: NoisePath, timestep: Tensor) -> Tensor:
    """What a pair's loss is multiplied by, float32 [B].

    none:        1
    linear:      timestep / largest timestep: t / (T - 1) for variance-preserving models, as in the published SDXL
                 script, and sigma for flow models
    high_noise:  sigma² / (alpha² + sigma²), the share of noise in the variance of x_t (of data with variance 1)

    Errors of noise predictions, and the margins made of them, are largest near clean; 'high_noise' evens the scales out
    and favors high noise. It is our reading of the timestep-aware training of Rethinking-DPO (arXiv 2505.18736), whose
    equations we could not check.
    """
    if settings.weight == "none":
        return torch.ones_like(timestep, dtype=torch.float32)
    if settings.weight == "high_noise":
        alpha, sigma = (part.flatten() for part in noise_path.coefficients(timestep))
        return (sigma.square() / (alpha.square() + sigma.square())).float()
    return timestep.float() / float(noise_path.timesteps[-1])


def _logit_normal_cdf(place: float, settings: Timesteps) -> Tensor:
    logit = torch.logit(torch.tensor(place, dtype=torch.float64))
    return torch.special.ndtr((logit - settings.logit_mean) / settings.logit_std)
