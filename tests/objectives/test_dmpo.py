from __future__ import annotations

import math

import pytest
import torch

from ddspo.objectives.dmpo import dmpo_loss
from ddspo.tensors import WinLose
from helpers.sides import DIMS, constant, contrastive, derivative_is_right, gradients, pair, swapped

BETA = 40.0


def test_hand_computed_value() -> None:
    result = dmpo_loss(constant(1, 2), constant(3, 5), constant(0, 1), beta=0.5, alpha=0.2)
    p = 1 / (1 + math.exp(1.75))
    expected = p * math.log(p / 0.8) + (1 - p) * math.log((1 - p) / 0.2)
    assert result.margin is not None and result.margin.item() == -1.75
    assert result.loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("alpha", [0.01, 0.3])
def test_start_and_sides(alpha: float) -> None:
    policy, reference, target = pair(0), pair(1), pair(2)
    start = dmpo_loss(reference, reference, target, beta=BETA, alpha=alpha).loss
    assert start.tolist() == pytest.approx([-math.log(2) - 0.5 * math.log(alpha * (1 - alpha))] * 3)
    here = dmpo_loss(policy, reference, target, beta=BETA).margin
    there = dmpo_loss(swapped(policy), swapped(reference), swapped(target), beta=BETA).margin
    assert here is not None and there is not None
    torch.testing.assert_close(there, -here)


def test_least_where_the_probability_is_one_minus_alpha() -> None:
    """The margin log((1 - alpha) / alpha) is the goal; on either side descent leads to it."""
    reference, target, d = contrastive(3)
    goal = math.log(0.99 / 0.01)
    for share, sign in ((0.5, -1), (1.0, 0), (2.0, 1)):
        # margin of u = a d is (beta/2)(2a + a²) mean d²: solve for beta at a = 1
        for row in range(3):
            one = slice(row, row + 1)
            beta = 2 * share * goal / (3 * d[one].square().mean().item())
            sides = [WinLose(s.win[one], s.lose[one]) for s in (reference, target)]
            policy = WinLose(sides[0].win, sides[0].lose + d[one])
            result = dmpo_loss(policy, sides[0], sides[1], beta=beta)
            slope = gradients(lambda p, sides=sides, beta=beta: dmpo_loss(p, sides[0], sides[1], beta=beta), policy)
            along = (slope.lose * d[one]).sum().item()
            if sign == 0:
                assert result.loss.item() == pytest.approx(0, abs=1e-12)
                assert along == pytest.approx(0, abs=1e-9)
            else:
                assert result.loss.item() > 0 and math.copysign(1, along) == sign


def test_descent_at_the_start_and_derivative() -> None:
    reference, target, d = contrastive(3)
    slope = gradients(lambda policy: dmpo_loss(policy, reference, target, beta=BETA), reference)
    # d KL / d u at u = 0: ¼ (log p/(1-p) - log((1-alpha)/alpha)) = -¼ log 99
    torch.testing.assert_close(slope.lose, -0.25 * math.log(99) * BETA * d / DIMS)
    assert not slope.win.any()
    assert derivative_is_right(lambda policy: dmpo_loss(policy, reference, target, beta=BETA), pair(4))


def test_finite_at_any_margin() -> None:
    reference, target = pair(0, torch.float32), pair(1, torch.float32)
    for beta in (1e6, 1e30):
        policy = pair(2, torch.float32)
        assert dmpo_loss(policy, reference, target, beta=beta).loss.isfinite().all()
        slope = gradients(lambda sides, beta=beta: dmpo_loss(sides, reference, target, beta=beta), policy)
        assert slope.win.isfinite().all() and slope.lose.isfinite().all()
