"""One sampling loop over diffusers schedulers: the arithmetic of diffusers' pipelines around a network function."""

from __future__ import annotations

import copy
import functools
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..tensors import Conditioning

_log = logging.getLogger(__name__)
Predict = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""(x_t [B, ...], timestep [B], conditioning [B, ...]) -> prediction [B, ...]"""


@dataclass(frozen=True)
class SamplerStep:
    """What one network call saw and said.

    Attributes:
        index: 0 for the first call.
        timestep: what the network was fed, 0-dimensional.
        x_t: what the network was fed (after the scheduler's input scaling, so it lies on the noise path), [B, ...].
        prediction_conditional: on the prompt, [B, ...].
        prediction_unconditional: on the unconditional rows; None when guidance is off.
        guided: what the scheduler was given, [B, ...].
    """

    index: int
    timestep: Tensor
    x_t: Tensor
    prediction_conditional: Tensor
    prediction_unconditional: Tensor | None
    guided: Tensor


@torch.no_grad()
def sample(
    predict: Predict,
    scheduler: Any,
    x_T: Tensor,  # noqa: N803
    conditioning: Conditioning,
    *,
    steps: int,
    guidance_scale: float,
    unconditional: Conditioning | None = None,
    generator: torch.Generator | list[torch.Generator] | None = None,
    on_step: Callable[[SamplerStep], None] | None = None,
) -> Tensor:
    """From noise to x_0, equal to what the diffusers pipeline computes for the same latents.

        guided = unconditional + guidance_scale (conditional - unconditional)         (Ho & Salimans, arXiv 2207.12598)

    Args:
        predict: the network; called once per step with the unconditional rows first, then the conditional ones.
        scheduler: a diffusers scheduler; its timesteps and state are set anew.
        x_T: standard normal noise, [B, C, H, W]; the scheduler's initial scale is applied here.
        conditioning: B rows.
        steps: diffusers' `num_inference_steps`; some schedulers make more network calls, see `network_evaluations`.
        guidance_scale: diffusers' meaning; 1 or less switches guidance off and halves the cost.
        unconditional: 1 row or B rows: the empty or negative prompt. Needed when guidance is on.
        generator: for schedulers that add noise as they go (DDPM, ancestral ones): one, or one per row so that no row
            depends on its neighbors. Without it they draw from torch's global state.
        on_step: is shown every network call.

    Returns:
        x_0, [B, C, H, W].

    Raises:
        ValueError: guidance is on and `unconditional` is missing or has a number of rows other than 1 or B.
    """
    guided = guidance_scale > 1
    if guided and "guidance" in conditioning.tensors:
        _tell_of_guidance_twice(guidance_scale)
    rows = _unconditional_first(conditioning, unconditional, len(x_T)) if guided else conditioning
    scheduler.set_timesteps(steps, device=x_T.device)
    step_arguments = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    x = x_T * getattr(scheduler, "init_noise_sigma", 1.0)
    for index, timestep in enumerate(scheduler.timesteps):
        x_t = scheduler.scale_model_input(x, timestep) if hasattr(scheduler, "scale_model_input") else x
        inputs = torch.cat([x_t, x_t]) if guided else x_t
        predictions = predict(inputs, timestep.expand(len(inputs)), rows)
        prediction, conditional, without = predictions, predictions, None
        if guided:
            without, conditional = predictions.chunk(2)
            prediction = without + guidance_scale * (conditional - without)
        if on_step is not None:
            on_step(SamplerStep(index, timestep, x_t, conditional, without, prediction))
        x = scheduler.step(prediction, timestep, x, **step_arguments, return_dict=False)[0]
    return x


@functools.cache
def _tell_of_guidance_twice(guidance_scale: float) -> None:
    """Once for every scale."""
    _log.warning(
        "this model takes guidance as an input already; guidance_scale %g comes on top, doubles the cost and burns "
        "pictures: set sampling.guidance_scale to 1",
        guidance_scale,
    )


def network_evaluations(scheduler: Any, steps: int, guidance_scale: float) -> int:
    """Denoiser rows that `sample` spends on one picture: 2 per call with guidance; PNDM makes steps + 1 calls."""
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(steps)
    return len(scheduler.timesteps) * (2 if guidance_scale > 1 else 1)


def _unconditional_first(conditioning: Conditioning, unconditional: Conditioning | None, count: int) -> Conditioning:
    if unconditional is None or len(unconditional) not in (1, count):
        found = "none" if unconditional is None else f"{len(unconditional)}"
        raise ValueError(f"guidance needs 1 or {count} unconditional rows, found {found}")
    if len(unconditional) != count:
        unconditional = unconditional.repeat(count)
    return Conditioning.join([unconditional, conditioning])
