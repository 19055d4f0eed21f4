"""The margin that most objectives share: how far the policy moved towards preferring the winning side."""

from __future__ import annotations

from torch import Tensor

from ..tensors import WinLose
from .errors import squared_error


def preference_margin(policy: WinLose, reference: WinLose, target: WinLose, *, beta: float) -> Tensor:
    """margin = -(beta/2) [ error(policy_win,    target_win) - error(policy_lose,    target_lose)
                       - error(reference_win, target_win) + error(reference_lose, target_lose) ]

    Positive where the policy, compared with the reference, came closer to the winning target than to the losing one.
    Zero at policy = reference; swapping the sides negates it. Diffusion-DPO, arXiv 2311.12908, with the number of
    timesteps and the weighting by noise level inside beta.

    Args:
        policy, reference: predictions on the prompt, both sides, [B, ...]; the reference's without gradient.
        target: what either side is compared with, without gradient.
        beta: multiplies half the difference of mean squared errors.

    Returns:
        [B], float32 (float64 if inputs are).
    """
    policy_gap = squared_error(policy.win, target.win) - squared_error(policy.lose, target.lose)
    reference_gap = squared_error(reference.win, target.win) - squared_error(reference.lose, target.lose)
    return -(beta / 2) * (policy_gap - reference_gap)
