"""DMPO: a bounded target probability in place of certainty."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ..tensors import WinLose
from .base import PairLoss
from .margin import preference_margin


def dmpo_loss(policy: WinLose, reference: WinLose, target: WinLose, *, beta: float, alpha: float = 0.01) -> PairLoss:
    """Bring the probability that the winning side is preferred to 1 - alpha: reverse Kullback-Leibler divergence.

        u    = preference margin,  p = sigmoid(u)
        loss = KL(Bernoulli(p) || Bernoulli(1 - alpha)) = p log(p / (1 - alpha)) + (1 - p) log((1 - p) / alpha)

    Source: DMPO as implemented in AIDC-AI/Diffusion-SDPO (`train.py` at 84fb241); the paper's own equations were not at
    hand. Per pair, not reduced; -log 2 - ½ log(alpha (1 - alpha)) at policy = reference, 0 at u = log((1 - alpha) /
    alpha), 4.6 for 0.01. Rows as for `preference_loss`: 8F with forward noise, 9F with TF-CPP. Logarithms of p are
    computed from u, so that nothing overflows.

    Args:
        policy, reference: predictions on the prompt, both sides, [B, ...]; the reference's without gradient.
        target: what either side is compared with, without gradient.
        beta: multiplies half the difference of mean squared errors. Published: 2000 (SD 1.5), 6000 (SDXL).
        alpha: probability left to the losing side, between 0 and 1, both excluded.

    Returns:
        Loss and u as margin, [B] each, float32 (float64 if inputs are).
    """
    u = preference_margin(policy, reference, target, beta=beta)
    p, rest = torch.sigmoid(u), torch.sigmoid(-u)
    loss = p * (F.logsigmoid(u) - math.log1p(-alpha)) + rest * (F.logsigmoid(-u) - math.log(alpha))
    return PairLoss(loss, u)
