from __future__ import annotations

import torch

from ddspo.objectives.guidance_distillation import guidance_distillation_loss
from ddspo.tensors import WinLose
from helpers.sides import DIMS, constant, derivative_is_right, gradients, normal, pair


def test_hand_computed_value() -> None:
    result = guidance_distillation_loss(constant(1, 3), constant(0, 1))
    assert result.loss.tolist() == [2.5]  # (1 + 4) / 2
    assert result.margin is None


def test_descent_moves_both_sides_along_the_guidance() -> None:
    reference, d, weight = pair(0), WinLose(normal(8), normal(9)), 3.0
    target = WinLose(reference.win + weight * d.win, reference.lose + weight * d.lose)
    mean = (d.win.square() + d.lose.square()).flatten(1).mean(1)
    torch.testing.assert_close(guidance_distillation_loss(reference, target).loss, weight**2 * mean / 2)
    slope = gradients(lambda policy: guidance_distillation_loss(policy, target), reference)
    torch.testing.assert_close(slope.win, -weight * d.win / DIMS)
    torch.testing.assert_close(slope.lose, -weight * d.lose / DIMS)
    assert derivative_is_right(lambda policy: guidance_distillation_loss(policy, target), pair(4))
