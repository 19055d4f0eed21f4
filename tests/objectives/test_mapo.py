from __future__ import annotations

import math

import pytest
import torch

from ddspo.objectives.mapo import mapo_loss, odds
from ddspo.tensors import WinLose
from helpers.sides import constant, derivative_is_right, gradients, normal, pair, swapped


def published_odds(m: float, slope: float) -> float:
    return slope * m / (math.exp(slope * m) - 1)


def test_hand_computed_value() -> None:
    result = mapo_loss(constant(1, 3), constant(0, 1), beta=0.1, slope=0.5, scale=10.0)
    margin = 10 * (published_odds(1, 0.5) - published_odds(4, 0.5))
    assert result.margin is not None and result.margin.item() == pytest.approx(margin, rel=1e-6)
    assert result.loss.item() == pytest.approx(1 + 0.1 * math.log(1 + math.exp(-margin)), rel=1e-6)


def test_equals_the_published_expression() -> None:
    policy, target = pair(0), pair(1)
    ours = mapo_loss(policy, target, beta=0.1)
    for row in range(3):
        win, lose = ((getattr(policy, s)[row] - getattr(target, s)[row]).pow(2).mean().item() for s in ("win", "lose"))
        margin = 1000 * (published_odds(win, 0.5) - published_odds(lose, 0.5))
        log_sigmoid = -math.log1p(math.exp(-abs(margin))) + min(margin, 0)
        assert ours.loss[row].item() == pytest.approx(win - 0.1 * log_sigmoid, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_odds_are_smooth_from_zero_to_beyond_what_exp_can_hold(dtype: torch.dtype) -> None:
    m = torch.tensor([0.0, 1e-30, 1e-9, 1e-4, 1.9e-3, 2e-3, 2.1e-3, 0.5, 10.0, 1e3, 1e9], dtype=dtype)
    m.requires_grad_()
    value = odds(m, 0.5)
    (slope,) = torch.autograd.grad(value.sum(), m)
    assert value.isfinite().all() and slope.isfinite().all()
    assert value[0].item() == 1.0 and slope[0].item() == -0.25  # f(0) = 1, f'(0) = -slope/2
    for place in (4, 5, 6, 7, 8):
        exact = published_odds(m[place].item(), 0.5)
        assert value[place].item() == pytest.approx(exact, rel=1e-6 if dtype == torch.float32 else 1e-12)
    assert (value.diff() <= 0).all() and (slope <= 0).all()
    assert value[-1].item() < 1e-30


def test_finite_where_the_release_divides_zero_by_zero() -> None:
    """A policy on its winning target, which is where TF-CPP starts."""
    at = pair(0, torch.float32)
    target = WinLose(at.win.clone(), normal(9, torch.float32))
    result = mapo_loss(at, target, beta=0.1)
    assert result.loss.isfinite().all()
    slope = gradients(lambda policy: mapo_loss(policy, target, beta=0.1), at)
    assert not slope.win.any() and slope.lose.isfinite().all()


def test_value_at_equal_errors_and_sides() -> None:
    policy, target = pair(0), pair(1)
    same = WinLose(policy.win, policy.win), WinLose(target.win, target.win)
    result = mapo_loss(*same, beta=0.3)
    torch.testing.assert_close(result.loss, (policy.win - target.win).square().flatten(1).mean(1) + 0.3 * math.log(2))
    here = mapo_loss(policy, target, beta=0.3).margin
    there = mapo_loss(swapped(policy), swapped(target), beta=0.3).margin
    assert here is not None and there is not None
    torch.testing.assert_close(there, -here)


def test_signs_and_derivative() -> None:
    policy, target = pair(0), pair(1)
    slope = gradients(lambda sides: mapo_loss(sides, target, beta=0.1, scale=1.0), policy)
    assert ((slope.win * (policy.win - target.win)).flatten(1).sum(1) > 0).all()  # descent towards the winning target
    assert ((slope.lose * (policy.lose - target.lose)).flatten(1).sum(1) < 0).all()  # away from the losing one
    assert derivative_is_right(lambda sides: mapo_loss(sides, target, beta=0.1, scale=1.0), policy)
