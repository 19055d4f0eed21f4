"""The SDPO safeguard: hold the losing side's gradient back where it would cost the winning side.

Published (Fu et al., arXiv 2511.03317; AIDC-AI/Diffusion-SDPO `train.py` at 84fb241). A and B are the squared errors of
winning and losing side, g_A and g_B their gradients by the network's output, and one step along
-g_A + lambda g_B changes A, to first order and with outputs in place of parameters, by -|g_A|² + lambda <g_A, g_B>.
Asking that at least mu of the winning side's own descent remains gives

    lambda = (1 - mu) |g_A|² / <g_A, g_B>  if <g_A, g_B> > 0 else 1,     clipped to [0, 1]

and the losing gradient is multiplied by it; the value of the loss stays.

Why that cannot be used with TF-CPP targets as it stands. There target_win is reference_win, so g_A is the winning
side's drift: 0 at the start. lambda is 0/0, and just after the start, where both sides have moved by u along d =
reference_lose - target_lose, it is (1 - mu) |u| / (|u| + |d|), about 0: the only push that teaches anything is switched
off, because an error that is 0 can but rise. The demand "do not let the winning error rise" is wrong there, for the
winning side has to move.

What we do. Where target_win is the reference, the winning side may move along d up to (1 - mu) d, and is guarded
against everything else: drift across d and drift further along it. With q = policy_win - target_win - (1 - mu) d the
guarded error is |q|², and the same demand on it reads

    lambda = (1 - mu) <q, a> / <q, b>  if <q, b> > 0 else 1,     clipped to [0, 1]
    a = policy_win - target_win,  b = policy_lose - target_lose

With q = a, which is what other targets get, this is the published formula. At the start <q, b> = -(1 - mu) |d|² <= 0,
so lambda is 1, without any 0/0; it falls below 1 once the winning side has gone too far, or anywhere but along d. mu =
1 allows no movement of the winning side at all. d is known on the losing state only and stands in for the winning
one's.

Where we differ on purpose: lambda is worked out per pair, where the release has one per micro batch and process; so it
does not depend on how a batch is cut.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..tensors import WinLose
from .errors import difference


def safeguard(policy: WinLose, target: WinLose, *, mu: float, free: Tensor | None = None) -> WinLose:
    """`policy` with the same values, its losing gradient multiplied by lambda.

    Args:
        policy: predictions of the trained network, both sides, [B, ...].
        target: what either side is compared with, without gradient.
        mu: share of the winning side's own descent that must remain, from 0 to 1.
        free: the contrast d, [B, ...], where target_win is the reference's prediction; None: the published form.

    Returns:
        Both sides, to be given to an objective.
    """
    scale = losing_scale(policy, target, mu=mu, free=free).reshape(-1, *[1] * (policy.lose.dim() - 1))
    still = policy.lose.detach()
    return WinLose(policy.win, still + scale.to(still.dtype) * (policy.lose - still))


@torch.no_grad()
def losing_scale(policy: WinLose, target: WinLose, *, mu: float, free: Tensor | None = None) -> Tensor:
    """lambda per pair, [B] in [0, 1]; see the head of this file."""
    a, b = difference(policy.win, target.win).flatten(1), difference(policy.lose, target.lose).flatten(1)
    q = a if free is None else a - (1 - mu) * free.to(a.dtype).flatten(1)
    cost, own = (q * b).sum(1), (q * a).sum(1)
    harmful = cost > 0
    scale = (1 - mu) * own / torch.where(harmful, cost, torch.ones_like(cost))
    return torch.where(harmful, scale, torch.ones_like(scale)).clamp(0, 1)
