"""Random and constant predictions of both sides, for tests of objectives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ddspo.objectives.base import PairLoss
from ddspo.tensors import WinLose

SHAPE = (3, 4, 2, 2)
DIMS = 4 * 2 * 2


def normal(seed: int, dtype: torch.dtype = torch.float64, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """Standard normal numbers that follow from the seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pair(seed: int, dtype: torch.dtype = torch.float64) -> WinLose:
    """Both sides."""
    return WinLose(normal(2 * seed, dtype), normal(2 * seed + 1, dtype))


def swapped(sides: WinLose) -> WinLose:
    """Winning and losing side exchanged."""
    return WinLose(sides.lose, sides.win)


def constant(win: float, lose: float) -> WinLose:
    """One pair whose sides are constant pictures."""
    return WinLose(torch.full((1, 1, 2, 2), win), torch.full((1, 1, 2, 2), lose))


def leaves(sides: WinLose) -> WinLose:
    """Copies that collect gradients."""
    return WinLose(sides.win.clone().requires_grad_(), sides.lose.clone().requires_grad_())


def gradients(loss: Callable[[WinLose], PairLoss], at: WinLose) -> WinLose:
    """d (sum of losses) / d policy, both sides; zero where a side has no part in the loss."""
    policy = leaves(at)
    win, lose = torch.autograd.grad(
        loss(policy).loss.sum(), [policy.win, policy.lose], allow_unused=True, materialize_grads=True
    )
    return WinLose(win, lose)


def derivative_is_right(loss: Callable[[WinLose], PairLoss], at: WinLose) -> bool:
    """Automatic against numerical derivatives in float64."""
    policy = leaves(at)
    return torch.autograd.gradcheck(lambda *sides: loss(WinLose(*sides)).loss, (policy.win, policy.lose))


def contrastive(seed: int) -> tuple[WinLose, WinLose, Tensor]:
    """(reference, TF-CPP targets, contrast d) around a random reference."""
    reference, d = pair(seed), normal(100 + seed)
    return reference, WinLose(reference.win, reference.lose - d), d
