"""Data-driven contrastive policy pairs (DD-CPP): one model fitted to winning pictures, one to losing."""

from __future__ import annotations

from ..diffusion.noise_path import NoisePath
from ..tensors import PreferenceBatch, RolePredict, WinLose
from .base import TargetRows


def data_driven(
    batch: PreferenceBatch, x_t: WinLose, predict: RolePredict, noise_path: NoisePath, *, reference: bool = True
) -> TargetRows:
    """target_win = winning(x_t_win, c), target_lose = losing(x_t_lose, c): both on the prompt, without guidance.

    Four rows per pair and nothing computed twice: the two targets, and the reference on both sides. The degraded prompt
    is not looked at. DDSPO, arXiv 2512.23426; released code at commit f8e47a5.

    Args:
        batch: B pairs.
        x_t: noised latents of both sides, [B, ...].
        predict: calls the network in one of its roles; the reference is asked once, on 2B rows, 'winning' and 'losing'
            once each, on B rows.
        noise_path: not needed here; every target source has this signature.
        reference: False: the two targets alone.
    """
    stacked = x_t.stacked(), batch.timestep.repeat(2), batch.prompt.repeat(2)
    rows = predict("reference", *stacked) if reference else None
    target = WinLose(
        predict("winning", x_t.win, batch.timestep, batch.prompt),
        predict("losing", x_t.lose, batch.timestep, batch.prompt),
    )
    if rows is None:
        return TargetRows(target, None, network_evaluations=2 * len(batch.timestep))
    return TargetRows(target, WinLose.split(rows), network_evaluations=4 * len(batch.timestep))
