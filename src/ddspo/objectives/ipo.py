"""IPO: a squared loss with a finite best margin."""

from __future__ import annotations

from ..tensors import WinLose
from .base import PairLoss
from .margin import preference_margin


def ipo_loss(policy: WinLose, reference: WinLose, target: WinLose, *, beta: float) -> PairLoss:
    """Bring the margin to ½, and no further.

        margin = -(beta/2) [ (policy errors, win - lose) - (reference errors, win - lose) ]     (`preference_margin`)
        loss   = (margin - ½)²

    Source: Azar et al., arXiv 2310.12036, equation 17, (h - 1/(2 beta))² with h = margin / beta; carried over to
    diffusion in diffusers' `train_diffusion_dpo.py`. Per pair, not reduced; ¼ at policy = reference. Rows as for
    `preference_loss`: 8F with forward noise, 9F with TF-CPP.

    Where we differ on purpose: the loss is multiplied by beta². The least point is the same; without the factor loss
    and gradient shrink as 1/beta² and 1/beta, down to where Adam's epsilon decides. diffusers folds the ½ of the margin
    into beta (its 2500 is our 5000), and its script reads an option `beta` that it does not define.

    Args:
        policy, reference: predictions on the prompt, both sides, [B, ...]; the reference's without gradient.
        target: what either side is compared with, without gradient.
        beta: multiplies half the difference of mean squared errors; the margin aimed at does not depend on it, the
            distance that it takes does.

    Returns:
        Loss and margin, [B] each, float32 (float64 if inputs are).
    """
    margin = preference_margin(policy, reference, target, beta=beta)
    return PairLoss((margin - 0.5).square(), margin)
