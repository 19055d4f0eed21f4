from __future__ import annotations

import math

import pytest
import torch

from ddspo.objectives.dspo import contrastive_dspo_loss, dspo_loss
from ddspo.objectives.errors import squared_error
from ddspo.tensors import WinLose
from helpers.sides import DIMS, constant, contrastive, derivative_is_right, gradients, normal, pair, swapped

BETA = 40.0


def test_hand_computed_value() -> None:
    result = dspo_loss(constant(1, 2), constant(3, 5), constant(0, 1), beta=0.5)
    # u = -1.75; residual (1 - 0) - 0.5 (1 - sigmoid(-1.75)) (1 - 3)
    rest = 1 / (1 + math.exp(-1.75))
    assert result.margin is not None and result.margin.item() == -1.75
    assert result.loss.item() == pytest.approx((1 + rest) ** 2)


def plain_dspo(policy: WinLose, reference: WinLose, noise: torch.Tensor, beta: float) -> list[float]:
    """The released SD 1.5 branch, one pair and one number at a time."""
    losses = []
    for row in range(len(noise)):
        numbers = [
            tensor[row].flatten().tolist() for tensor in (policy.win, policy.lose, reference.win, reference.lose, noise)
        ]
        m_w, m_l, r_w, r_l = (
            sum((p - n) ** 2 for p, n in zip(side, numbers[4], strict=True)) / len(side) for side in numbers[:4]
        )
        inside = -0.5 * beta * ((m_w - m_l) - (r_w - r_l))
        rest = 1 - 1 / (1 + math.exp(-inside))
        residual = [(p - n) - beta * rest * (p - r) for p, r, n in zip(numbers[0], numbers[2], numbers[4], strict=True)]
        losses.append(sum(value**2 for value in residual) / len(residual))
    return losses


@pytest.mark.parametrize("beta", [0.001, 0.05, 3.0])
def test_equals_an_independent_one(beta: float) -> None:
    policy, reference, noise = pair(0), pair(1), normal(9)
    result = dspo_loss(policy, reference, WinLose(noise, noise), beta=beta)
    assert result.loss.tolist() == pytest.approx(plain_dspo(policy, reference, noise, beta), rel=1e-9)


def test_starts_as_fine_tuning_on_winners() -> None:
    reference, target = pair(0), pair(1)
    result = dspo_loss(reference, reference, target, beta=BETA)
    torch.testing.assert_close(result.loss, squared_error(reference.win, target.win))
    slope = gradients(lambda policy: dspo_loss(policy, reference, target, beta=0.0), reference)
    torch.testing.assert_close(slope.win, 2 * (reference.win - target.win) / DIMS)
    assert not slope.lose.any()


def test_the_losing_side_is_reached_through_the_sigmoid_and_by_the_derivative() -> None:
    policy, reference, target = pair(0), pair(1), pair(2)
    assert gradients(lambda sides: dspo_loss(sides, reference, target, beta=3.0), policy).lose.any()
    assert derivative_is_right(lambda sides: dspo_loss(sides, reference, target, beta=3.0), policy)
    here = dspo_loss(policy, reference, target, beta=3.0).margin
    there = dspo_loss(swapped(policy), swapped(reference), swapped(target), beta=3.0).margin
    assert here is not None and there is not None
    torch.testing.assert_close(there, -here)


def test_published_form_has_nothing_to_learn_from_contrastive_targets() -> None:
    reference, target, _ = contrastive(3)
    result = dspo_loss(reference, reference, target, beta=0.001)
    assert not result.loss.any()
    slope = gradients(lambda policy: dspo_loss(policy, reference, target, beta=0.001), reference)
    assert not slope.win.any() and not slope.lose.any()


def test_contrastive_form_moves_along_the_contrast_and_stops() -> None:
    reference, target, d = contrastive(3)
    gain = 2.0
    start = contrastive_dspo_loss(reference, reference, target, beta=BETA, gain=gain)
    torch.testing.assert_close(start.loss, (gain / 2) ** 2 * d.square().flatten(1).mean(1))
    slope = gradients(lambda policy: contrastive_dspo_loss(policy, reference, target, beta=BETA, gain=gain), reference)
    assert not slope.win.any()
    torch.testing.assert_close(slope.lose, -2 * (gain / 2) * d / DIMS)
    # With beta near 0 the share stays at one half: policy_lose = reference_lose + gain/2 · d is the least point.
    there = WinLose(reference.win, reference.lose + d)
    assert contrastive_dspo_loss(there, reference, target, beta=1e-9, gain=gain).loss.max() < 1e-12
    # A settled pair has no share left: its goal is the reference itself.
    settled = contrastive_dspo_loss(there, reference, target, beta=1e6, gain=gain)
    torch.testing.assert_close(settled.loss, d.square().flatten(1).mean(1))


def test_contrastive_goal_has_no_gradient_of_its_own() -> None:
    policy, (reference, target, d) = pair(5), contrastive(3)
    slope = gradients(lambda sides: contrastive_dspo_loss(sides, reference, target, beta=BETA), policy)
    margin = contrastive_dspo_loss(policy, reference, target, beta=BETA).margin
    assert margin is not None
    goal = reference.lose + torch.sigmoid(-margin)[:, None, None, None] * d
    torch.testing.assert_close(slope.lose, 2 * (policy.lose - goal) / DIMS)
    torch.testing.assert_close(slope.win, 2 * (policy.win - target.win) / DIMS)
