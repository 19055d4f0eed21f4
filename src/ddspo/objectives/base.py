"""What every objective gives back, and what the step must know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

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
"""(policy, reference, target, settings, beta) -> PairLoss"""


@dataclass(frozen=True)
class Objective:
    """One objective as the step calls it.

    Attributes:
        loss: the pure function behind one signature.
        needs_reference: whether it looks at the reference's predictions on the prompt.
        sides: 'win' looks at winning rows only; policy.lose then holds the winning rows again.
    """

    loss: Loss
    needs_reference: bool = True
    sides: Literal["both", "win"] = "both"
