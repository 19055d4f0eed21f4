"""The reference guided from degraded prompt to prompt."""

from __future__ import annotations

import torch

from ..diffusion.noise_path import NoisePath
from ..tensors import Conditioning, PreferenceBatch, RolePredict, WinLose
from .base import TargetRows


def guidance(
    batch: PreferenceBatch,
    x_t: WinLose,
    predict: RolePredict,
    noise_path: NoisePath,
    *,
    reference: bool = True,
    weight: float = 1.0,
) -> TargetRows:
    """target = reference(x_t, c) + weight (reference(x_t, c) - reference(x_t, c⁻)), on either side.

    What classifier-free guidance of scale 1 + weight predicts when the degraded prompt is the negative prompt. Four
    rows per pair; the reference's own predictions are among them. To be regressed on (`guidance_distillation_loss`): a
    preference objective would push the losing side away from guidance.

    Args:
        batch: B pairs.
        x_t: noised latents of both sides, [B, ...].
        predict: calls the network in one of its roles; the reference is asked once, on 4B rows.
        noise_path: not needed here; every target source has this signature.
        reference: the same rows either way.
        weight: guidance scale minus 1.
    """
    win, lose, win_degraded, lose_degraded = predict(
        "reference",
        torch.cat([x_t.win, x_t.lose, x_t.win, x_t.lose]),
        batch.timestep.repeat(4),
        Conditioning.join([batch.prompt, batch.prompt, batch.degraded_prompt, batch.degraded_prompt]),
    ).chunk(4)
    target = WinLose(win + weight * (win - win_degraded), lose + weight * (lose - lose_degraded))
    return TargetRows(target, WinLose(win, lose), network_evaluations=4 * len(batch.timestep))
