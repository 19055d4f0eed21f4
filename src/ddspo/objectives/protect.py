"""Forms of the margin that protect quality; each can be switched on alone, and all off is the published margin.

Write policy = reference + u and r = reference - target on either side (means over latent dimensions, |·|² likewise).
The margin then splits into a winning and a losing part:

    win part  = -(beta/2) (|u_win|²  + 2 <u_win,  r_win>)
    lose part =  (beta/2) (|u_lose|² + 2 <u_lose, r_lose>)          margin = win part + lose part

With TF-CPP targets r_win = 0 and r_lose = d = reference(x_lose, c) - reference(x_lose, c⁻). What is to be learned is
<u_lose, d>. The term (beta/2) |u_lose|² pays for any movement of the losing side, in whatever direction: at
u_lose = s d it is s/2 times the signal, so from s = 2 on distance pays more than direction. These forms are ours, but
for `lose_weight`, which is the conservativeness of DPPO (An et al., arXiv 2301.12842) carried over to a margin.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tensors import WinLose
from .base import PairLoss
from .errors import squared_error


def win_part(policy: Tensor, reference: Tensor, target: Tensor, *, beta: float) -> Tensor:
    """-(beta/2) [ error(policy, target) - error(reference, target) ] of the winning side, [B]."""
    return -(beta / 2) * (squared_error(policy, target) - squared_error(reference, target))


def lose_part(policy: Tensor, reference: Tensor, target: Tensor, *, beta: float) -> Tensor:
    """(beta/2) [ error(policy, target) - error(reference, target) ] of the losing side, [B]: the published form."""
    return (beta / 2) * (squared_error(policy, target) - squared_error(reference, target))


def linear_lose_part(policy: Tensor, reference: Tensor, target: Tensor, *, beta: float) -> Tensor:
    """beta <policy - reference, reference - target>: the losing part linearized at the reference, [B].

    Equals `lose_part` - (beta/2) |policy - reference|²: the same value (0) and the same gradient where policy =
    reference, without the reward for distance. Movement across the signal earns nothing, and since this part is
    linear and the winning part concave, -log sigmoid(margin) is convex in the predictions.
    """
    drift = squared_error(policy, reference)
    return lose_part(policy, reference, target, beta=beta) - (beta / 2) * drift


def trust_bound(
    reference: Tensor, target: Tensor, *, beta: float, trust_region: float, lose_reward: bool = True
) -> Tensor:
    """The most that a drift of trust_region · |r|² can make of the losing part, [B]:

        bound = (beta/2) (2 sqrt(tau) + tau) |r|²   of `lose_part`;  tau = trust_region, |r|² = error(reference, target)
        bound = (beta/2) · 2 sqrt(tau) |r|²         of `linear_lose_part`, the form without `lose_reward`

    For |u|² <= tau |r|², Cauchy-Schwarz gives 2 <u, r> <= 2 sqrt(tau) |r|², with equality at u = sqrt(tau) r. Where the
    published losing part is at the bound, policy_lose lies on the sphere of radius (1 + sqrt(tau)) |r| around its
    target, so wherever it lies inside, |u| <= (2 + sqrt(tau)) |r|.
    """
    reward = trust_region if lose_reward else 0.0
    return (beta / 2) * (2 * trust_region**0.5 + reward) * squared_error(reference, target)


def protected_margin(
    policy: WinLose,
    reference: WinLose,
    target: WinLose,
    *,
    beta: float,
    lose_reward: bool = True,
    lose_weight: float = 1.0,
    trust_region: float | None = None,
) -> Tensor:
    """margin = win part + lose_weight · min(lose part, trust bound), [B]

    With every protection off this is the published margin. At policy = reference it is 0 whatever is on, and its
    gradient is the published one, its losing half times `lose_weight`.

    Args:
        policy: predictions of the trained network, both sides, [B, ...].
        reference: of the frozen network on the same rows, without gradient.
        target: what either side is compared with, without gradient.
        beta: preference temperature.
        lose_reward: whether the losing part pays for distance (published) or is `linear_lose_part`.
        lose_weight: conservativeness; below 1 the losing side pushes less and the winning side holds as before.
        trust_region: tau. A pair whose losing side gained what a drift of tau times its own contrast could give
            pushes no further (zero gradient through the minimum); its winning side still holds. None: no bound.
    """
    part = lose_part if lose_reward else linear_lose_part
    lose = part(policy.lose, reference.lose, target.lose, beta=beta)
    if trust_region is not None:
        bound = trust_bound(reference.lose, target.lose, beta=beta, trust_region=trust_region, lose_reward=lose_reward)
        lose = torch.minimum(lose, bound)
    return win_part(policy.win, reference.win, target.win, beta=beta) + lose_weight * lose


def protected_loss(
    policy: WinLose,
    reference: WinLose,
    target: WinLose,
    *,
    beta: float,
    lose_reward: bool = True,
    lose_weight: float = 1.0,
    trust_region: float | None = None,
) -> PairLoss:
    """-log sigmoid(`protected_margin`); log 2 at policy = reference. Arguments as there; [B] each, not reduced."""
    margin = protected_margin(
        policy,
        reference,
        target,
        beta=beta,
        lose_reward=lose_reward,
        lose_weight=lose_weight,
        trust_region=trust_region,
    )
    return PairLoss(-F.logsigmoid(margin), margin)
