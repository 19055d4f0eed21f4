from __future__ import annotations

import math

import pytest
import torch

from ddspo.objectives.dppo import dppo_loss
from ddspo.objectives.preference import preference_loss
from ddspo.tensors import WinLose
from helpers.sides import DIMS, constant, derivative_is_right, gradients, pair, swapped

BETA = 4.0


def test_hand_computed_value() -> None:
    result = dppo_loss(constant(1, 3), constant(0, 1), beta=0.5, conservativeness=0.5)
    # delta_win = 0.25 · 1, delta_lose = 0.25 · 4; margin = 0.5 · 1 - 0.25
    assert result.margin is not None and result.margin.item() == 0.25
    won, lost = math.exp(-0.25), math.exp(-0.5 * 1.0)
    assert result.loss.item() == pytest.approx(-math.log(won / (won + lost)), rel=1e-6)


def test_without_discount_it_is_the_preference_loss_with_a_reference_that_errs_alike_on_both_sides() -> None:
    policy, target = pair(0), pair(1)
    offset = 0.7
    reference = WinLose(target.win + offset, target.lose - offset)
    torch.testing.assert_close(
        dppo_loss(policy, target, beta=BETA).loss, preference_loss(policy, reference, target, beta=BETA).loss
    )
    equal = WinLose(target.win + offset, target.lose - offset)
    assert dppo_loss(equal, target, beta=BETA).loss.tolist() == pytest.approx([math.log(2)] * 3)
    here, there = dppo_loss(policy, target, beta=BETA), dppo_loss(swapped(policy), swapped(target), beta=BETA)
    assert here.margin is not None and there.margin is not None
    torch.testing.assert_close(there.margin, -here.margin)


def test_conservativeness_scales_the_losing_gradient_against_the_winning_one() -> None:
    policy, target = pair(0), pair(1)
    for conservativeness in (0.0, 0.25, 1.0):
        loss = dppo_loss(policy, target, beta=BETA, conservativeness=conservativeness)
        slope = gradients(
            lambda sides, c=conservativeness: dppo_loss(sides, target, beta=BETA, conservativeness=c), policy
        )
        assert loss.margin is not None
        weight = torch.sigmoid(-loss.margin)[:, None, None, None] * BETA / DIMS
        torch.testing.assert_close(slope.win, weight * (policy.win - target.win))
        torch.testing.assert_close(slope.lose, -conservativeness * weight * (policy.lose - target.lose))


def test_derivative() -> None:
    target = pair(1)
    assert derivative_is_right(lambda sides: dppo_loss(sides, target, beta=BETA, conservativeness=0.5), pair(0))
