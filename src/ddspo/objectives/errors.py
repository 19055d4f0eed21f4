"""How far predictions are from their targets."""

from __future__ import annotations

import torch
from torch import Tensor

from ..tensors import WinLose


def difference(one: Tensor, other: Tensor) -> Tensor:
    """one - other, in float32 at least: low precision is widened first, so that the difference is not rounded."""
    dtype = torch.promote_types(torch.promote_types(one.dtype, other.dtype), torch.float32)
    return one.to(dtype) - other.to(dtype)


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """error(p, q) = mean over all latent dimensions of (p - q)², per sample.

    Args:
        prediction, target: [B, ...] in the same prediction space.

    Returns:
        [B], float32; float64 if an input is float64.
    """
    return difference(prediction, target).square().flatten(1).mean(1)


def both_errors(prediction: WinLose, target: WinLose) -> Tensor:
    """error(p_win, q_win) + error(p_lose, q_lose), [B]; as `squared_error`."""
    return squared_error(prediction.win, target.win) + squared_error(prediction.lose, target.lose)
