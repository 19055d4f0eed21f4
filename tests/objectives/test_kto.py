from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ddspo.objectives.kto import kto_loss
from ddspo.tensors import WinLose
from helpers.sides import DIMS, constant, contrastive, derivative_is_right, gradients, pair, swapped

BETA = 4.0


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_hand_computed_value() -> None:
    result = kto_loss(constant(1, 2), constant(3, 5), constant(0, 1), beta=0.1, win_weight=2.0, lose_weight=3.0)
    # g_win = 9 - 1 = 8, g_lose = 16 - 1 = 15, z0 = 11.5
    expected = 0.5 * (2 * (1 - sigmoid(0.1 * (8 - 11.5))) + 3 * (1 - sigmoid(0.1 * (11.5 - 15))))
    assert result.loss.item() == pytest.approx(expected, rel=1e-6)
    assert result.margin is not None and result.margin.item() == pytest.approx(-0.7)


def test_zero_point_is_never_below_zero() -> None:
    result = kto_loss(constant(3, 5), constant(1, 2), constant(0, 1), beta=0.1)  # g = -8 and -15
    expected = 0.5 * ((1 - sigmoid(-0.8)) + (1 - sigmoid(1.5)))
    assert result.loss.item() == pytest.approx(expected, rel=1e-6)


def plain_kto(images: list[tuple[Tensor, Tensor, Tensor, int]], beta: float) -> list[float]:
    """Image by image, (policy, reference, target, label ±1), as the release writes it."""
    gains = [((r - t).pow(2).mean() - (p - t).pow(2).mean()).item() for p, r, t, _ in images]
    zero = max(0.0, sum(gains) / len(gains))
    return [1 - sigmoid(label * beta * (g - zero)) for g, (*_, label) in zip(gains, images, strict=True)]


def test_equals_an_independent_one() -> None:
    policy, reference, target = pair(0), pair(3), pair(2)
    images = [(policy.win[i], reference.win[i], target.win[i], 1) for i in range(3)]
    images += [(policy.lose[i], reference.lose[i], target.lose[i], -1) for i in range(3)]
    plain = plain_kto(images, BETA)
    ours = kto_loss(policy, reference, target, beta=BETA).loss
    assert ours.tolist() == pytest.approx([(plain[i] + plain[i + 3]) / 2 for i in range(3)])


def test_start_and_sides() -> None:
    policy, reference, target = pair(0), pair(1), pair(2)
    start = kto_loss(reference, reference, target, beta=BETA, win_weight=1.0, lose_weight=3.0)
    assert start.loss.tolist() == pytest.approx([1.0] * 3)
    assert start.margin is not None and not start.margin.any()
    here = kto_loss(policy, reference, target, beta=BETA).margin
    there = kto_loss(swapped(policy), swapped(reference), swapped(target), beta=BETA).margin
    assert here is not None and there is not None
    torch.testing.assert_close(there, -here)


def test_signs_at_the_start() -> None:
    """Without ½ beside beta but with the mean over two pictures: (beta/2) ¼ 2 (p - t) / dims."""
    reference, target = pair(0), pair(1)
    slope = gradients(lambda policy: kto_loss(policy, reference, target, beta=BETA), reference)
    torch.testing.assert_close(slope.win, BETA / 4 * (reference.win - target.win) / DIMS)
    torch.testing.assert_close(slope.lose, -BETA / 4 * (reference.lose - target.lose) / DIMS)
    base, goals, d = contrastive(3)
    slope = gradients(lambda policy: kto_loss(policy, base, goals, beta=BETA), base)
    assert not slope.win.any()
    torch.testing.assert_close(slope.lose, -BETA / 4 * d / DIMS)


def test_the_zero_point_carries_no_gradient() -> None:
    """Each picture is weighed by the utility's slope at its own gain, where the zero point is well above its floor."""
    reference, target = pair(0), pair(2)
    policy = WinLose(target.win + 0.1, target.lose + 0.2)  # both sides gain
    weights = []
    gains = [
        (getattr(reference, s) - getattr(target, s)).square().flatten(1).mean(1)
        - (getattr(policy, s) - getattr(target, s)).square().flatten(1).mean(1)
        for s in ("win", "lose")
    ]
    zero = torch.cat(gains).mean()
    assert zero > 0.5
    for gain, label in zip(gains, (1, -1), strict=True):
        h = torch.sigmoid(label * 0.3 * (gain - zero))
        weights.append((label * 0.3 * h * (1 - h))[:, None, None, None])
    slope = gradients(lambda sides: kto_loss(sides, reference, target, beta=0.3), policy)
    torch.testing.assert_close(slope.win, weights[0] * (policy.win - target.win) / DIMS)
    torch.testing.assert_close(slope.lose, weights[1] * (policy.lose - target.lose) / DIMS)


def test_each_picture_counts_alone_but_for_the_zero_point() -> None:
    """With the zero point at its floor a side's value does not depend on the other side."""
    reference, target = pair(1), pair(2)
    far = WinLose(reference.win + 10, reference.lose + 10)
    other = WinLose(far.win, far.lose + 1)
    one, two = (gradients(lambda p: kto_loss(p, reference, target, beta=1e-3), at).win for at in (far, other))
    torch.testing.assert_close(one, two)


def test_derivative_with_the_zero_point_at_its_floor() -> None:
    reference, target = pair(1), pair(2)
    far = WinLose(reference.win + 3, reference.lose + 3)
    assert derivative_is_right(lambda policy: kto_loss(policy, reference, target, beta=0.01), far)
