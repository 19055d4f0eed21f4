"""A price on drift, for any preference objective.

The margin is blind to drift that both sides share: with policy = reference + u on either side,

    margin = beta <u_lose, d> + (beta/2) (|u_lose|² - |u_win|²)                               (means over dimensions)

so a common u costs nothing beyond its part against d, and drift of the losing side alone is even rewarded. The noise of
stochastic gradients then accumulates in every direction that the margin does not see. The anchor is ours; neither the
paper nor the released code has it.
"""

from __future__ import annotations

from torch import Tensor

from ..tensors import WinLose
from .errors import squared_error


def drift_anchor(
    policy: WinLose, reference: WinLose, *, unit: float, anchor: float, lose_anchor: float | None = None
) -> Tensor:
    """unit · [ anchor · error(policy_win, reference_win) + lose_anchor · error(policy_lose, reference_lose) ]

    unit is beta/2 for objectives whose margin is beta/2 times errors, so that changing beta keeps their balance; for
    those that are errors themselves it is 1. With TF-CPP targets and a margin that is not saturated (sigmoid ½),
    preference loss plus anchor is least at u = d / (4 · anchor) where both sides move alike: the anchor, not the length
    of training, decides how far the policy goes along d = reference(x_lose, c) - reference(x_lose, c⁻). beta decides
    when a pair counts as settled.

    Args:
        policy: predictions of the trained network, both sides, [B, ...].
        reference: predictions of the frozen network on the same rows, without gradient.
        unit: what an error counts in the objective.
        anchor: price on the winning side; 0 is the published objective.
        lose_anchor: price on the losing side; None: the same.

    Returns:
        [B].
    """
    lose_anchor = anchor if lose_anchor is None else lose_anchor
    win, lose = squared_error(policy.win, reference.win), squared_error(policy.lose, reference.lose)
    return unit * (anchor * win + lose_anchor * lose)
