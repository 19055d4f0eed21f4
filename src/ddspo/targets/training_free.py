"""Training-free contrastive policy pairs (TF-CPP): the reference on prompt and degraded prompt."""

from __future__ import annotations

import torch

from ..diffusion.noise_path import NoisePath
from ..tensors import Conditioning, PreferenceBatch, RolePredict, WinLose
from .base import TargetRows


def training_free(
    batch: PreferenceBatch, x_t: WinLose, predict: RolePredict, noise_path: NoisePath, *, reference: bool = True
) -> TargetRows:
    """target_win = reference(x_t_win, c), target_lose = reference(x_t_lose, c⁻), both without guidance.

    The winning target is the reference's own prediction, so three rows per pair are enough (win|c, lose|c, lose|c⁻);
    the published code computes four. DDSPO, arXiv 2512.23426; released code at commit f8e47a5.

    Args:
        batch: B pairs.
        x_t: noised latents of both sides, [B, ...].
        predict: calls the network in one of its roles; the reference is asked once, on 3B rows.
        noise_path: not needed here; every target source has this signature.
        reference: False: the two targets alone, 2B rows (win|c, lose|c⁻).
    """
    count = len(batch.timestep)
    if not reference:
        conditions = Conditioning.join([batch.prompt, batch.degraded_prompt])
        targets = WinLose.split(predict("reference", x_t.stacked(), batch.timestep.repeat(2), conditions))
        return TargetRows(targets, None, network_evaluations=2 * count)
    win, lose, lose_degraded = predict(
        "reference",
        torch.cat([x_t.win, x_t.lose, x_t.lose]),
        batch.timestep.repeat(3),
        Conditioning.join([batch.prompt, batch.prompt, batch.degraded_prompt]),
    ).chunk(3)
    return TargetRows(WinLose(win, lose_degraded), WinLose(win, lose), network_evaluations=3 * count)
