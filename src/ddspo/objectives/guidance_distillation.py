"""Distillation of guidance with the degraded prompt as negative prompt: no preference, a regression."""

from __future__ import annotations

from ..tensors import WinLose
from .base import PairLoss
from .errors import both_errors


def guidance_distillation_loss(policy: WinLose, target: WinLose) -> PairLoss:
    """Predict without guidance what the reference predicts with it.

        loss = ½ [ error(policy_win, target_win) + error(policy_lose, target_lose) ]
        target = reference(x_t, c) + weight (reference(x_t, c) - reference(x_t, c⁻)) on either side

    Source: Meng et al., arXiv 2210.03142, stage one, with one weight in place of a range of them and the degraded
    prompt in place of the empty one; the DDSPO authors prepared such a baseline. Mean over the two rows of a pair,
    pairs not reduced; ½ weight² (mean d² of both sides) at policy = reference. No beta, no margin. Rows: four of the
    reference, two of the policy: 10F.

    Args:
        policy: predictions on the prompt, both sides, [B, ...].
        target: guided predictions of the reference, without gradient.

    Returns:
        Loss [B], no margin.
    """
    return PairLoss(both_errors(policy, target) / 2, None)
