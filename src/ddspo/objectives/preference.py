"""The preference objective: DDSPO, and Diffusion-DPO when the target is the forward noise.

DDSPO: Kim et al., arXiv 2512.23426 (the expression of the released code, `ddspo/dpo.py` at commit f8e47a5).
Diffusion-DPO: Wallace et al., arXiv 2311.12908. As in both released codes, beta has absorbed the number of timesteps
and the weighting by noise level, and errors are means over latent dimensions, not sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..tensors import WinLose
from .errors import squared_error


@dataclass(frozen=True)
class PreferenceLoss:
    """Per pair, [B] each, not reduced.

    Attributes:
        loss: -log sigmoid(margin).
        margin: positive where the policy, compared with the reference, came closer to the winning target than to the
            losing one; its share of positive pairs is the implicit accuracy.
        policy_error, reference_error: error(·, target) of both sides.
    """

    loss: Tensor
    margin: Tensor
    policy_error: WinLose
    reference_error: WinLose


def preference_loss(policy: WinLose, reference: WinLose, target: WinLose, *, beta: float) -> PreferenceLoss:
    """Prefer the winning target policy to the losing one, relative to the reference.

        margin = -(beta/2) [ error(policy_win,    target_win) - error(policy_lose,    target_lose)
                           - error(reference_win, target_win) + error(reference_lose, target_lose) ]
        loss   = -log sigmoid(margin)

    Args:
        policy: predictions of the trained network on the prompt, both sides, [B, ...].
        reference: predictions of the frozen network on the prompt, both sides, without gradient.
        target: what either side is compared with, without gradient; forward noise gives Diffusion-DPO, a contrastive
            policy pair gives DDSPO (see `ddspo.targets`).
        beta: preference temperature; multiplies half the difference of mean squared errors.

    Returns:
        Loss, margin and the four errors, [B] each, float32 (float64 if inputs are).
    """
    policy_error = WinLose(squared_error(policy.win, target.win), squared_error(policy.lose, target.lose))
    reference_error = WinLose(squared_error(reference.win, target.win), squared_error(reference.lose, target.lose))

    margin = -(beta / 2) * (
        (policy_error.win - policy_error.lose)
        - (reference_error.win - reference_error.lose)
    )  # fmt: skip
    return PreferenceLoss(-F.logsigmoid(margin), margin, policy_error, reference_error)
