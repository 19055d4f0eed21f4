"""The preference objective: DDSPO, and Diffusion-DPO when the target is the forward noise.

DDSPO: Kim et al., arXiv 2512.23426 (the expression of the released code, `ddspo/dpo.py` at commit f8e47a5).
Diffusion-DPO: Wallace et al., arXiv 2311.12908. As in both released codes, beta has absorbed the number of timesteps
and the weighting by noise level, and errors are means over latent dimensions, not sums.
"""

from __future__ import annotations

import torch.nn.functional as F

from ..tensors import WinLose
from .base import PairLoss
from .margin import preference_margin


def preference_loss(policy: WinLose, reference: WinLose, target: WinLose, *, beta: float) -> PairLoss:
    """Prefer the winning target policy to the losing one, relative to the reference.

        margin = -(beta/2) [ error(policy_win,    target_win) - error(policy_lose,    target_lose)
                           - error(reference_win, target_win) + error(reference_lose, target_lose) ]
        loss   = -log sigmoid(margin)

    Per pair, not reduced; log 2 at policy = reference. Two policy rows and the reference's two, beside what the targets
    need: 8F with forward noise, 9F with TF-CPP.

    Args:
        policy: predictions of the trained network on the prompt, both sides, [B, ...].
        reference: predictions of the frozen network on the prompt, both sides, without gradient.
        target: what either side is compared with, without gradient; forward noise gives Diffusion-DPO, a contrastive
            policy pair gives DDSPO (see `ddspo.targets`).
        beta: preference temperature; multiplies half the difference of mean squared errors.

    Returns:
        Loss and margin, [B] each, float32 (float64 if inputs are).
    """
    margin = preference_margin(policy, reference, target, beta=beta)
    return PairLoss(-F.logsigmoid(margin), margin)
