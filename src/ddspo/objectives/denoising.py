"""Plain fine-tuning: the denoising loss."""

from __future__ import annotations

from ..tensors import WinLose
from .base import PairLoss
from .errors import squared_error


def denoising_loss(policy: WinLose, target: WinLose) -> PairLoss:
    """loss = error(policy_win, target_win), per sample: the simple loss of DDPM (arXiv 2006.11239, equation 14).

    Mean over latent dimensions, no ½, no beta. One policy row per pair and no reference: 3F.

    Args:
        policy: predictions of the trained network, native prediction space; the losing side is not looked at.
        target: what forward noising implies there (`NoisePath.target`).

    Returns:
        Loss [B], no margin.
    """
    return PairLoss(squared_error(policy.win, target.win), None)
