"""How far a prediction is from its target."""

from __future__ import annotations

import torch
from torch import Tensor


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """error(p, q) = mean over all latent dimensions of (p - q)², per sample.

    Args:
        prediction, target: [B, ...] in the same prediction space.

    Returns:
        [B], float32; float64 if an input is float64.
    """
    dtype = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
    return (prediction.to(dtype) - target.to(dtype)).square().flatten(1).mean(1)
