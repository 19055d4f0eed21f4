"""DSPO: score matching towards the distribution of what is preferred."""

from __future__ import annotations

import torch
from torch import Tensor

from ..tensors import WinLose
from .base import PairLoss
from .errors import both_errors, difference
from .margin import preference_margin


def dspo_loss(policy: WinLose, reference: WinLose, target: WinLose, *, beta: float) -> PairLoss:
    """Regress the winning side on its target plus the score of the preference.

        u    = preference margin with this beta
        loss = mean of [ (policy_win - target_win) - beta (1 - sigmoid(u)) (policy_win - reference_win) ]²

    Source: Zhu et al., DSPO, as released for SD 1.5 (huaishengzhu/DSPO `train.py` at 8b4e09b, re-implemented alike in
    AIDC-AI/Diffusion-SDPO). As there u is not detached, so the losing side has a gradient through sigmoid(u) alone, and
    none at policy = reference: it starts as plain fine-tuning on winners. Per pair, not reduced; error(reference_win,
    target_win) at policy = reference. Rows as for `preference_loss`: 8F with forward noise.

    beta is one number in two places: inside u, with the ½, and in front of the preference's score. Published: 0.001,
    searched in {0.001, 0.01, 0.05}; there sigmoid(u) stays near ½.

    Where we differ on purpose: the same release trains SDXL on another loss, [(1 - sigmoid(u)) (policy_win -
    reference_win)]² where that drift is at least 0.1 on average over a batch and (1 - sigmoid(u))² elsewhere, with beta
    1000 to 5000 and without the regression. It depends on what else is in the batch and is no score matching; we do not
    do it, for any model. With TF-CPP targets, where target_win is reference_win, the formula above is least at policy =
    reference and nothing is learned; use `contrastive_dspo_loss` there.

    Args:
        policy, reference: predictions on the prompt, both sides, [B, ...]; the reference's without gradient.
        target: what either side is compared with, without gradient.
        beta: see above.

    Returns:
        Loss and u as margin, [B] each, float32 (float64 if inputs are).
    """
    u = preference_margin(policy, reference, target, beta=beta)
    pull = _per_row(beta * torch.sigmoid(-u), policy.win)
    residual = difference(policy.win, target.win) - pull * difference(policy.win, reference.win)
    return PairLoss(residual.square().flatten(1).mean(1), u)


def contrastive_dspo_loss(
    policy: WinLose, reference: WinLose, target: WinLose, *, beta: float, gain: float = 1.0
) -> PairLoss:
    """DSPO with TF-CPP targets: the preference's score comes from the contrastive pair, not from the policy's drift.

        d    = reference_lose - target_lose = reference(x_lose, c) - reference(x_lose, c⁻)
        goal = reference_lose + gain (1 - sigmoid(u)) d                    no gradient; u the preference margin
        loss = error(policy_win, target_win) + error(policy_lose, goal)

    Our reading. DSPO's target is the score of the data plus (1 - sigmoid(u)) times the score of the reward. With
    contrastive policies the reward is known: log of the winning policy over the losing one, whose score is d in
    prediction space. Both policies are evaluated on the losing state only, hence the second term there; the first holds
    the winning side at its target. The DDSPO authors report "DSPO with CPP targets" without code; whether it was this
    is unknown.

    Per pair, not reduced; (gain/2)² mean d² at policy = reference, where descent moves policy_lose along d. A pair
    stops at a share of d that shrinks as its margin grows, so beta decides when it counts as settled. Rows: 9F, as
    DDSPO.

    Args:
        policy, reference: predictions on the prompt, both sides, [B, ...]; the reference's without gradient.
        target: TF-CPP targets, without gradient.
        beta: inside u, with the ½.
        gain: how many times d the goal lies away, before (1 - sigmoid(u)).

    Returns:
        Loss and u as margin, [B] each, float32 (float64 if inputs are).
    """
    u = preference_margin(policy, reference, target, beta=beta)
    share = _per_row(gain * torch.sigmoid(-u.detach()), reference.lose)
    goal = reference.lose + share * difference(reference.lose, target.lose)
    return PairLoss(both_errors(policy, WinLose(target.win, goal)), u)


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    """[B] as [B, 1, ...], to multiply [B, ...]."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
