"""Objectives: small pure functions of predictions and targets, one per file, losses unreduced [B]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..tensors import WinLose
from .base import Loss, PairLoss
from .denoising import denoising_loss
from .dmpo import dmpo_loss
from .dppo import dppo_loss
from .dspo import contrastive_dspo_loss, dspo_loss
from .guidance_distillation import guidance_distillation_loss
from .hinge import hinge_loss
from .ipo import ipo_loss
from .kto import kto_loss
from .mapo import mapo_loss
from .preference import preference_loss
from .protect import protected_loss

if TYPE_CHECKING:
    from .. import recipe

Sides = WinLose | None


def _preference(policy: WinLose, reference: Sides, target: WinLose, own: recipe.Objective, beta: float) -> PairLoss:
    if own.protect.is_on:
        return protected_loss(policy, _given(reference), target, beta=beta, **own.protect.model_dump())
    return preference_loss(policy, _given(reference), target, beta=beta)


def _ipo(policy: WinLose, reference: Sides, target: WinLose, _: recipe.Objective, beta: float) -> PairLoss:
    return ipo_loss(policy, _given(reference), target, beta=beta)


def _hinge(policy: WinLose, reference: Sides, target: WinLose, _: recipe.Objective, beta: float) -> PairLoss:
    return hinge_loss(policy, _given(reference), target, beta=beta)


def _dspo(policy: WinLose, reference: Sides, target: WinLose, own: recipe.Objective, beta: float) -> PairLoss:
    if own.dspo_reward == "contrast":
        return contrastive_dspo_loss(policy, _given(reference), target, beta=beta, gain=own.dspo_gain)
    return dspo_loss(policy, _given(reference), target, beta=beta)


def _dmpo(policy: WinLose, reference: Sides, target: WinLose, own: recipe.Objective, beta: float) -> PairLoss:
    return dmpo_loss(policy, _given(reference), target, beta=beta, alpha=own.dmpo_alpha)


def _kto(policy: WinLose, reference: Sides, target: WinLose, own: recipe.Objective, beta: float) -> PairLoss:
    weights = {"win_weight": own.kto_win_weight, "lose_weight": own.kto_lose_weight}
    return kto_loss(policy, _given(reference), target, beta=beta, **weights)


def _mapo(policy: WinLose, reference: Sides, target: WinLose, own: recipe.Objective, beta: float) -> PairLoss:
    return mapo_loss(policy, target, beta=beta, slope=own.mapo_slope, scale=own.mapo_scale)


def _dppo(policy: WinLose, reference: Sides, target: WinLose, own: recipe.Objective, beta: float) -> PairLoss:
    return dppo_loss(policy, target, beta=beta, conservativeness=own.dppo_conservativeness)


def _denoising(policy: WinLose, reference: Sides, target: WinLose, _: recipe.Objective, beta: float) -> PairLoss:
    return denoising_loss(policy, target)


def _distillation(policy: WinLose, reference: Sides, target: WinLose, _: recipe.Objective, beta: float) -> PairLoss:
    return guidance_distillation_loss(policy, target)


def _given(reference: Sides) -> WinLose:
    if reference is None:
        raise ValueError("this objective compares with the reference, and got no reference rows")
    return reference


OBJECTIVES: dict[str, Loss] = {
    "preference": _preference,
    "ipo": _ipo,
    "hinge": _hinge,
    "dspo": _dspo,
    "dmpo": _dmpo,
    "kto": _kto,
    "mapo": _mapo,
    "dppo": _dppo,
    "denoising": _denoising,
    "guidance_distillation": _distillation,
}
"""`recipe.Objective.name` -> what the step calls; what else it must know of each is in `method_facts`"""

__all__ = ["OBJECTIVES", "Loss", "PairLoss"]
