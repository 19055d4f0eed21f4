"""MaPO: a margin of likelihoods without a reference."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tensors import WinLose
from .base import PairLoss
from .errors import squared_error

_SERIES_BELOW = 1e-3
"""the series is off by x⁴/720 there: far below float32's last digit"""
_LARGEST = 80.0
"""exp overflows float32 from 89 on; the odds are 1e-33 here"""


def mapo_loss(policy: WinLose, target: WinLose, *, beta: float, slope: float = 0.5, scale: float = 1000.0) -> PairLoss:
    """Fine-tune on the winning side and part the two sides.

        m      = error(policy, target)                                          per side
        margin = scale (odds(m_win) - odds(m_lose)),   odds(m) = slope m / (exp(slope m) - 1)
        loss   = m_win - beta log sigmoid(margin)

    Source: Hong et al., arXiv 2406.06424, as released (mapo-t2i/mapo `utils.py`). Per pair, not reduced; where m_win =
    m_lose it is m_win + beta log 2. There is no reference: two policy rows and the target's, 6F with forward noise, and
    no frozen network in memory. The release has no ½; beta multiplies the log sigmoid, not an error.

    Where we differ on purpose: the release computes 0/0 at m = 0, as a policy that equals TF-CPP's winning target has
    it. Here odds(m) = 1 - x/2 + x²/12 with x = slope m below 0.001, where odds and slope are exact to rounding, and
    odds(m) stays at 1e-33 beyond what exp can hold.

    Args:
        policy: predictions on the prompt, both sides, [B, ...].
        target: what either side is compared with, without gradient.
        beta: weight of the margin's term. Published: 0.1.
        slope: how fast the odds fall with the error. Published: 0.5.
        scale: multiplies the difference of odds. Published: the number of training timesteps, 1000.

    Returns:
        Loss and margin, [B] each, float32 (float64 if inputs are).
    """
    win, lose = squared_error(policy.win, target.win), squared_error(policy.lose, target.lose)
    margin = scale * (odds(win, slope) - odds(lose, slope))
    return PairLoss(win - beta * F.logsigmoid(margin), margin)


def odds(error: Tensor, slope: float) -> Tensor:
    """slope m / (exp(slope m) - 1) for m >= 0: 1 at m = 0, with the slope -slope/2 there; falls to 1e-33."""
    x = slope * error
    small = x < _SERIES_BELOW
    inside = torch.where(small, torch.ones_like(x), x).clamp(max=_LARGEST)  # keeps 0/0 out of the gradient as well
    return torch.where(small, 1 - x / 2 + x.square() / 12, inside / torch.expm1(inside))
