from __future__ import annotations

import pytest
import torch

from ddspo.objectives.ipo import ipo_loss
from helpers.sides import DIMS, constant, contrastive, derivative_is_right, gradients, pair, swapped

BETA = 40.0


def test_hand_computed_value() -> None:
    result = ipo_loss(constant(1, 2), constant(3, 5), constant(0, 1), beta=0.5)
    # Errors: policy 1 and 1, reference 9 and 16. Margin: -(0.5 / 2) [(1 - 1) - (9 - 16)] = -1.75; (-1.75 - 0.5)².
    assert result.margin is not None and result.margin.item() == -1.75
    assert result.loss.item() == 5.0625


def test_start_and_sides() -> None:
    policy, reference, target = pair(0), pair(1), pair(2)
    assert ipo_loss(reference, reference, target, beta=BETA).loss.tolist() == pytest.approx([0.25] * 3)
    here = ipo_loss(policy, reference, target, beta=BETA).margin
    there = ipo_loss(swapped(policy), swapped(reference), swapped(target), beta=BETA).margin
    assert here is not None and there is not None
    torch.testing.assert_close(there, -here)


def test_equals_the_published_squared_distance_times_beta_squared() -> None:
    """diffusers: (logits - 1 / (2 b))² with logits the difference of errors without ½, and b = beta / 2."""
    policy, reference, target = pair(0), pair(1), pair(2)
    for row in range(3):
        error = {
            (who, side): (getattr(sides, side)[row] - getattr(target, side)[row]).pow(2).mean().item()
            for who, sides in (("policy", policy), ("reference", reference))
            for side in ("win", "lose")
        }
        logits = (error["reference", "win"] - error["reference", "lose"]) - (
            error["policy", "win"] - error["policy", "lose"]
        )
        b = BETA / 2
        published = (logits - 1 / (2 * b)) ** 2
        ours = ipo_loss(policy, reference, target, beta=BETA).loss[row].item()
        assert ours == pytest.approx(published * b**2, rel=1e-9)


def test_descent_at_the_start_and_its_derivative() -> None:
    reference, target, d = contrastive(3)
    slope = gradients(lambda policy: ipo_loss(policy, reference, target, beta=BETA), reference)
    assert not slope.win.any()
    torch.testing.assert_close(slope.lose, -BETA * d / DIMS)  # 2 (0 - ½) times d margin / d policy_lose
    assert derivative_is_right(lambda policy: ipo_loss(policy, reference, target, beta=BETA), pair(4))


def test_a_margin_beyond_a_half_is_pulled_back() -> None:
    reference, target, d = contrastive(3)
    far = type(reference)(reference.win, reference.lose + d)
    result = ipo_loss(far, reference, target, beta=BETA)
    assert result.margin is not None and (result.margin > 0.5).all()
    slope = gradients(lambda policy: ipo_loss(policy, reference, target, beta=BETA), far)
    assert ((slope.lose * d).flatten(1).sum(1) > 0).all()  # descent moves against d
