"""The preference objective: DDSPO, and Diffusion-DPO when the target is the forward noise.

DDSPO is Kim et al. (arXiv 2512.23426); written after the released code, `ddspo/dpo.py` at commit f8e47a5. Diffusion-DPO is
Wallace et al. (arXiv 2311.12908, equation 14). As in both released codes, beta holds the number of timesteps and the
weighting of the noise level; errors are means over latent dimensions, so beta does not grow with the size of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..tensors import WinLose
from .errors import squared_error


@dataclass(frozen=True)
class PreferenceLoss:
    """Per pair, [B] each, not reduced.

    Attributes:
        loss: -log sigmoid(margin).
        margin: positive when the policy moved, relative to the reference, toward the winning target more than toward the losing one.
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
        target: what either side is compared with, without gradient; the forward noise gives Diffusion-DPO, the contrastive
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
