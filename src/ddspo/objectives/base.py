"""What every objective gives back, and the one signature that the step calls them by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ..tensors import WinLose

if TYPE_CHECKING:
    from .. import recipe


@dataclass(frozen=True)
class PairLoss:
    """Per pair, [B] each, not reduced.

    Attributes:
        loss: what is minimized.
        margin: positive where the policy prefers the winning side as the loss sees it, without unit; its share of
            positive pairs is the implicit accuracy. None: the objective compares nothing.
    """

    loss: Tensor
    margin: Tensor | None


Loss = Callable[[WinLose, WinLose | None, WinLose, "recipe.Objective", float], PairLoss]
"""(policy, reference, target, settings, beta) -> PairLoss; for winning sides alone, policy.lose repeats policy.win"""
