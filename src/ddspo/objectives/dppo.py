"""DPPO's contrastive loss: distances to targets, compared without a reference."""

from __future__ import annotations

import torch.nn.functional as F

from ..tensors import WinLose
from .base import PairLoss
from .errors import squared_error


def dppo_loss(policy: WinLose, target: WinLose, *, beta: float, conservativeness: float = 1.0) -> PairLoss:
    """Be nearer to the winning target than to the losing one, with the losing distance discounted.

        delta  = (beta/2) error(policy, target)                                  per side
        margin = conservativeness · delta_lose - delta_win
        loss   = -log sigmoid(margin)
               = -log [ exp(-delta_win) / (exp(-delta_win) + exp(-conservativeness · delta_lose)) ]

    Source: An et al., arXiv 2301.12842 (offline reinforcement learning; `learner.py` of its release at bce1756), for
    two candidates. Per pair, not reduced. No reference: two policy rows and the target's, 6F with forward noise. At
    conservativeness 1 it is Diffusion-DPO with the reference's terms left out, so a pair's start depends on how well
    the base predicts each side: log 2 only where the two errors are equal.

    Where we differ on purpose: the distance is the mean squared error that all objectives here share, with beta/2 in
    front, where the release takes half a mean distance divided by a temperature of 0.1; so beta is the inverse
    temperature and no published number for it carries over (5000, Diffusion-DPO's, is the default). Both distances
    count in absolute terms: with forward noise a conservativeness much below 1 puts every pair at a margin far below 0,
    where the loss is linear and pulls on the winning side 1/conservativeness times as hard as it pushes on the losing
    one.

    Args:
        policy: predictions on the prompt, both sides, [B, ...].
        target: what either side is compared with, without gradient.
        beta: inverse temperature; multiplies half the mean squared error of either side.
        conservativeness: factor on the losing distance. Published: 1; 0 looks at winners only.

    Returns:
        Loss and margin, [B] each, float32 (float64 if inputs are).
    """
    win, lose = squared_error(policy.win, target.win), squared_error(policy.lose, target.lose)
    margin = (beta / 2) * (conservativeness * lose - win)
    return PairLoss(-F.logsigmoid(margin), margin)
