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


def drift_anchor(policy: WinLose, reference: WinLose, *, beta: float, anchor: float) -> Tensor:
    """anchor · (beta/2) · [ error(policy_win, reference_win) + error(policy_lose, reference_lose) ]

    With TF-CPP targets and a margin that is not saturated (sigmoid ½), preference loss plus anchor is least at
    u = d / (4 · anchor) where both sides move alike: the anchor, not the length of training, decides how far the
    policy goes along d = reference(x_lose, c) - reference(x_lose, c⁻). beta decides when a pair counts as settled.

    Args:
        policy: predictions of the trained network, both sides, [B, ...].
        reference: predictions of the frozen network on the same rows, without gradient.
        beta: the preference temperature; the anchor scales with it, so that changing beta keeps their balance.
        anchor: 0 is the published objective.

    Returns:
        [B].
    """
    drift = squared_error(policy.win, reference.win) + squared_error(policy.lose, reference.lose)
    return anchor * (beta / 2) * drift
