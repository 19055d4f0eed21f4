"""The table that steps call: each objective is the function of its file, and every number of the recipe reaches it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ddspo.method_facts import OBJECTIVES as FACTS
from ddspo.objectives import OBJECTIVES
from ddspo.objectives.base import PairLoss
from ddspo.objectives.denoising import denoising_loss
from ddspo.objectives.dmpo import dmpo_loss
from ddspo.objectives.dppo import dppo_loss
from ddspo.objectives.dspo import contrastive_dspo_loss, dspo_loss
from ddspo.objectives.guidance_distillation import guidance_distillation_loss
from ddspo.objectives.hinge import hinge_loss
from ddspo.objectives.ipo import ipo_loss
from ddspo.objectives.kto import kto_loss
from ddspo.objectives.mapo import mapo_loss
from ddspo.objectives.preference import preference_loss
from ddspo.objectives.protect import protected_loss
from ddspo.recipe import Objective
from ddspo.tensors import WinLose
from helpers.sides import pair

BETA = 0.7
Loss = Callable[[WinLose, WinLose, WinLose], PairLoss]
CASES: list[tuple[str, dict[str, Any], Loss]] = [
    ("preference", {}, lambda p, r, t: preference_loss(p, r, t, beta=BETA)),
    (
        "preference",
        {"protect": {"lose_reward": False, "lose_weight": 0.3, "trust_region": 0.2}},
        lambda p, r, t: protected_loss(p, r, t, beta=BETA, lose_reward=False, lose_weight=0.3, trust_region=0.2),
    ),
    ("ipo", {}, lambda p, r, t: ipo_loss(p, r, t, beta=BETA)),
    ("hinge", {}, lambda p, r, t: hinge_loss(p, r, t, beta=BETA)),
    ("dspo", {}, lambda p, r, t: dspo_loss(p, r, t, beta=BETA)),
    (
        "dspo",
        {"dspo_reward": "contrast", "dspo_gain": 3.0},
        lambda p, r, t: contrastive_dspo_loss(p, r, t, beta=BETA, gain=3.0),
    ),
    ("dmpo", {"dmpo_alpha": 0.2}, lambda p, r, t: dmpo_loss(p, r, t, beta=BETA, alpha=0.2)),
    (
        "kto",
        {"kto_win_weight": 2.0, "kto_lose_weight": 3.0},
        lambda p, r, t: kto_loss(p, r, t, beta=BETA, win_weight=2.0, lose_weight=3.0),
    ),
    (
        "mapo",
        {"mapo_slope": 0.9, "mapo_scale": 7.0},
        lambda p, r, t: mapo_loss(p, t, beta=BETA, slope=0.9, scale=7.0),
    ),
    ("dppo", {"dppo_conservativeness": 0.4}, lambda p, r, t: dppo_loss(p, t, beta=BETA, conservativeness=0.4)),
    ("denoising", {}, lambda p, r, t: denoising_loss(p, t)),
    ("guidance_distillation", {}, lambda p, r, t: guidance_distillation_loss(p, t)),
]


@pytest.mark.parametrize(("name", "fields", "loss"), CASES)
def test_the_table_calls_the_function_with_the_numbers_of_the_recipe(
    name: str, fields: dict[str, Any], loss: Loss
) -> None:
    policy, reference, target = pair(0), pair(1), pair(2)
    found = OBJECTIVES[name](policy, reference, target, Objective.model_validate({"name": name, **fields}), BETA)
    expected = loss(policy, reference, target)
    assert torch.equal(found.loss, expected.loss)
    assert (found.margin is None) == (expected.margin is None)


def test_every_objective_and_every_field_of_its_own_is_here() -> None:
    assert {name for name, *_ in CASES} == set(OBJECTIVES) == set(FACTS)
    tried = {field for _, fields, _ in CASES for field in fields}
    own = {field for facts in FACTS.values() for field in facts.fields}
    assert tried - {"protect"} == own - {"side"}  # the side is chosen where batches are made


def test_who_needs_the_reference_says_so_when_there_is_none() -> None:
    policy, target = pair(0), pair(2)
    for name, facts in FACTS.items():
        settings = Objective.model_validate({"name": name})
        if facts.needs_reference:
            with pytest.raises(ValueError, match="no reference rows"):
                OBJECTIVES[name](policy, None, target, settings, BETA)
        else:
            assert OBJECTIVES[name](policy, None, target, settings, BETA).loss.isfinite().all()
