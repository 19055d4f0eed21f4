"""In which space predictions are compared: the network's own, or that of the x_0 they imply."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..diffusion.noise_path import NoisePath
from ..tensors import WinLose
from .base import TargetRows


def rows_in_x_0(rows: TargetRows, timestep: Tensor, noise_path: NoisePath) -> TargetRows:
    """Target and reference rows of B pairs, for `target.error_space: x_0`; see `sides_in_x_0`."""
    reference = None if rows.reference is None else sides_in_x_0(rows.reference, timestep, noise_path)
    return replace(rows, target=sides_in_x_0(rows.target, timestep, noise_path), reference=reference)


def sides_in_x_0(sides: WinLose, timestep: Tensor, noise_path: NoisePath) -> WinLose:
    """Predictions times a factor, so that their differences are those of the x_0 they imply at the same x_t.

        x_0 = x_t - sigma v (flow), alpha x_t - sigma v, (x_t - sigma epsilon) / alpha

    x_t cancels in every difference, so squared errors are those of the native space times sigma², sigma² and
    (sigma / alpha)². The released SD3 code of DDSPO compares so (KU-MIIL/DDSPO at f8e47a5, adapters/sd3.py), its SANA
    code in the native space.

    Args:
        sides: predictions or targets in the native space, [B, ...].
        timestep: [B].
        noise_path: says what the native space is.
    """
    nothing = torch.zeros_like(sides.win)
    return WinLose(noise_path.to_x_0(sides.win, nothing, timestep), noise_path.to_x_0(sides.lose, nothing, timestep))
