"""Objectives: small pure functions of predictions and targets, one per file, losses unreduced [B]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..tensors import WinLose
from .base import Objective, PairLoss
from .denoising import denoising_loss
from .preference import preference_loss

if TYPE_CHECKING:
    from .. import recipe

Sides = WinLose | None


def _preference(policy: WinLose, reference: Sides, target: WinLose, _: recipe.Objective, beta: float) -> PairLoss:
    return preference_loss(policy, _given(reference), target, beta=beta)


def _denoising(policy: WinLose, reference: Sides, target: WinLose, _: recipe.Objective, beta: float) -> PairLoss:
    return denoising_loss(policy, target)


def _given(reference: Sides) -> WinLose:
    if reference is None:
        raise ValueError("this objective compares with the reference, and got no reference rows")
    return reference


OBJECTIVES: dict[str, Objective] = {
    "preference": Objective(_preference),
    "denoising": Objective(_denoising, needs_reference=False, sides="win"),
}
"""`recipe.Objective.name` -> what the step calls"""

__all__ = ["OBJECTIVES", "Objective", "PairLoss"]
