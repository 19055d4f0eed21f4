"""The hinge loss on the preference margin."""

from __future__ import annotations

import torch

from ..tensors import WinLose
from .base import PairLoss
from .margin import preference_margin


def hinge_loss(policy: WinLose, reference: WinLose, target: WinLose, *, beta: float) -> PairLoss:
    """Push until the margin is 1, then leave the pair alone.

        margin = -(beta/2) [ (policy errors, win - lose) - (reference errors, win - lose) ]     (`preference_margin`)
        loss   = max(0, 1 - margin)

    Source: SLiC-HF, Zhao et al., arXiv 2305.10425, in the normalized form of RSO, arXiv 2309.06657; carried over to
    diffusion in diffusers' `train_diffusion_dpo.py`. Per pair, not reduced; 1 at policy = reference, where its gradient
    is twice that of -log sigmoid(margin). Rows as for `preference_loss`: 8F with forward noise, 9F with TF-CPP.

    diffusers folds the ½ of the margin into beta: its 2500 is our 5000.

    Args:
        policy, reference: predictions on the prompt, both sides, [B, ...]; the reference's without gradient.
        target: what either side is compared with, without gradient.
        beta: multiplies half the difference of mean squared errors.

    Returns:
        Loss and margin, [B] each, float32 (float64 if inputs are).
    """
    margin = preference_margin(policy, reference, target, beta=beta)
    return PairLoss(torch.relu(1 - margin), margin)
