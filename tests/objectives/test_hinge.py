from __future__ import annotations

import pytest
import torch

from ddspo.objectives.hinge import hinge_loss
from ddspo.objectives.preference import preference_loss
from ddspo.tensors import WinLose
from helpers.sides import constant, contrastive, derivative_is_right, gradients, pair

BETA = 40.0


def test_hand_computed_values() -> None:
    result = hinge_loss(constant(1, 2), constant(3, 5), constant(0, 1), beta=0.5)
    assert result.margin is not None and result.margin.item() == -1.75
    assert result.loss.item() == 2.75
    # Sides exchanged: margin 1.75, and nothing left to do.
    assert hinge_loss(constant(2, 1), constant(5, 3), constant(1, 0), beta=0.5).loss.item() == 0


def test_start_is_one_with_twice_the_gradient_of_the_logistic_loss() -> None:
    reference, target = pair(0), pair(1)
    assert hinge_loss(reference, reference, target, beta=BETA).loss.tolist() == pytest.approx([1.0] * 3)
    slope = gradients(lambda policy: hinge_loss(policy, reference, target, beta=BETA), reference)
    logistic = gradients(lambda policy: preference_loss(policy, reference, target, beta=BETA), reference)
    torch.testing.assert_close(slope.win, 2 * logistic.win)
    torch.testing.assert_close(slope.lose, 2 * logistic.lose)


def test_settled_pairs_are_left_alone() -> None:
    reference, target, d = contrastive(3)
    far = WinLose(reference.win, reference.lose + d)
    result = hinge_loss(far, reference, target, beta=BETA)
    assert result.margin is not None and (result.margin > 1).all()
    assert not result.loss.any()
    slope = gradients(lambda policy: hinge_loss(policy, reference, target, beta=BETA), far)
    assert not slope.win.any() and not slope.lose.any()


def test_derivative() -> None:
    reference, target = pair(0), pair(1)
    assert derivative_is_right(lambda policy: hinge_loss(policy, reference, target, beta=BETA), pair(4))
