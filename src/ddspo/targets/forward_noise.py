"""Forward noise as both targets: Diffusion-DPO."""

from __future__ import annotations

from ..diffusion.noise_path import NoisePath
from ..diffusion.states import added_noise
from ..tensors import PreferenceBatch, RolePredict, WinLose
from .base import TargetRows


def forward_noise(
    batch: PreferenceBatch, x_t: WinLose, predict: RolePredict, noise_path: NoisePath, *, reference: bool = True
) -> TargetRows:
    """target_win, target_lose = what x_0 and noise imply in the native prediction space: the noise, the velocity, ...

    For epsilon and shared noise both targets are equal; a velocity target differs between the sides, as x_0 does. With
    states from the sampling trajectory the noise is what x_t and x_0 imply, side by side (`diffusion.states`).
    Diffusion-DPO, arXiv 2311.12908.

    Args:
        batch: B pairs.
        x_t: noised latents of both sides, [B, ...].
        predict: calls the network in one of its roles; the reference is asked once, on 2B rows.
        noise_path: says what the network predicts.
        reference: False: no row at all.
    """
    target = noise_target(batch, noise_path)
    if not reference:
        return TargetRows(target, None, network_evaluations=0)
    rows = predict("reference", x_t.stacked(), batch.timestep.repeat(2), batch.prompt.repeat(2))
    return TargetRows(target, WinLose.split(rows), network_evaluations=2 * len(batch.timestep))


def noise_target(batch: PreferenceBatch, noise_path: NoisePath) -> WinLose:
    """What a network that knew x_0 and the noise would predict, in the native prediction space, [B, ...] a side."""
    noise = added_noise(batch, noise_path)
    return WinLose(
        noise_path.target(batch.x_0.win, noise.win, batch.timestep),
        noise_path.target(batch.x_0.lose, noise.lose, batch.timestep),
    )
