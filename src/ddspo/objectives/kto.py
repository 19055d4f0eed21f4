"""Diffusion-KTO: a utility of each picture alone."""

from __future__ import annotations

import torch

from ..tensors import WinLose
from .base import PairLoss
from .errors import squared_error


def kto_loss(
    policy: WinLose,
    reference: WinLose,
    target: WinLose,
    *,
    beta: float,
    win_weight: float = 1.0,
    lose_weight: float = 1.0,
) -> PairLoss:
    """Raise the utility of winning pictures and lower that of losing ones, each against a common zero.

        g    = error(reference, target) - error(policy, target)                      per picture
        z0   = max(0, mean of g over all 2B pictures of the batch)                   no gradient
        loss = ½ [ win_weight  (1 - sigmoid(beta (g_win - z0)))
                 + lose_weight (1 - sigmoid(beta (z0 - g_lose))) ]

    Source: Li et al., arXiv 2404.04465, as released (jacklishufan/diffusion-kto at 226bbd0), utility of Kahneman and
    Tversky. Mean over the two pictures of a pair, pairs not reduced; (win_weight + lose_weight)/4 at policy =
    reference. No ½ beside beta. Rows as for `preference_loss`: 8F with forward noise (4F a picture).

    Where we differ on purpose: pairs come in, so liked and disliked pictures are as many, and share timestep and noise
    within a pair, where the release draws single pictures with a share of 0.8 liked. z0 is taken over the pairs of this
    call: over one micro batch of one process, where the release gathers the processes. A gather inside the loss would
    need every process to make as many calls. So for this objective `micro_batch_pairs` is part of the mathematics and
    is not halved when memory gives out; the number of processes is where it changes how a batch is cut.

    Args:
        policy, reference: predictions on the prompt, both sides, [B, ...]; the reference's without gradient.
        target: what either side is compared with, without gradient.
        beta: multiplies the difference of mean squared errors. Published: 1000.
        win_weight, lose_weight: how much each kind of picture counts. Published: both 1.

    Returns:
        Loss and margin = beta (g_win - g_lose), [B] each, float32 (float64 if inputs are).
    """
    win = squared_error(reference.win, target.win) - squared_error(policy.win, target.win)
    lose = squared_error(reference.lose, target.lose) - squared_error(policy.lose, target.lose)
    zero = ((win.mean() + lose.mean()) / 2).clamp(min=0).detach()
    loss = win_weight * torch.sigmoid(-beta * (win - zero)) + lose_weight * torch.sigmoid(-beta * (zero - lose))
    return PairLoss(loss / 2, beta * (win - lose))
