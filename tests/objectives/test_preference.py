from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ddspo.objectives.base import PairLoss
from ddspo.objectives.preference import preference_loss
from ddspo.tensors import WinLose

BETA = 40.0
SHAPE = (3, 4, 2, 2)
DIMS = 4 * 2 * 2


def normal(seed: int, dtype: torch.dtype = torch.float64, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pair(seed: int, dtype: torch.dtype = torch.float64) -> WinLose:
    return WinLose(normal(2 * seed, dtype), normal(2 * seed + 1, dtype))


def swapped(sides: WinLose) -> WinLose:
    return WinLose(sides.lose, sides.win)


def constant(win: float, lose: float) -> WinLose:
    return WinLose(torch.full((1, 1, 2, 2), win), torch.full((1, 1, 2, 2), lose))


def test_hand_computed_values() -> None:
    result = preference_loss(constant(1, 2), constant(3, 5), constant(0, 1), beta=0.5)
    # Errors: policy 1 and 1, reference 9 and 16. Margin: -(0.5 / 2) [(1 - 1) - (9 - 16)] = -1.75.
    assert result.margin is not None
    assert result.margin.item() == -1.75
    assert result.loss.item() == pytest.approx(math.log(1 + math.exp(1.75)))


def test_pairs_do_not_mix() -> None:
    policy, reference, target = pair(0), pair(1), pair(2)
    whole = preference_loss(policy, reference, target, beta=BETA)
    for row in range(SHAPE[0]):
        one = slice(row, row + 1)
        alone = preference_loss(
            *(WinLose(sides.win[one], sides.lose[one]) for sides in (policy, reference, target)), beta=BETA
        )
        torch.testing.assert_close(alone.loss, whole.loss[one])
    assert whole.loss.shape == whole.margin.shape == (SHAPE[0],)


def test_loss_is_log_2_when_policy_is_reference() -> None:
    reference = pair(0, torch.float32)
    result = preference_loss(reference, reference, pair(1, torch.float32), beta=16000.0)
    assert torch.equal(result.margin, torch.zeros(3))
    torch.testing.assert_close(result.loss, torch.full((3,), math.log(2)))


def test_swapping_sides_negates_the_margin() -> None:
    policy, reference, target = pair(0), pair(1), pair(2)
    margin = preference_loss(policy, reference, target, beta=BETA).margin
    other = preference_loss(swapped(policy), swapped(reference), swapped(target), beta=BETA).margin
    torch.testing.assert_close(other, -margin)


def test_margin_is_proportional_to_beta() -> None:
    policy, reference, target = pair(0), pair(1), pair(2)
    one = preference_loss(policy, reference, target, beta=1.0).margin
    torch.testing.assert_close(preference_loss(policy, reference, target, beta=7.0).margin, 7 * one)


def test_descent_pulls_the_winning_side_to_its_target_and_pushes_the_losing_side_away() -> None:
    reference, target = pair(0), pair(1)
    policy = WinLose(reference.win.clone().requires_grad_(), reference.lose.clone().requires_grad_())
    preference_loss(policy, reference, target, beta=BETA).loss.sum().backward()
    assert policy.win.grad is not None
    assert policy.lose.grad is not None
    # d loss / d policy_win = sigmoid(-margin) (beta / 2) 2 (policy - target) / dims, with margin 0 here.
    torch.testing.assert_close(policy.win.grad, 0.5 * BETA * (reference.win - target.win) / DIMS)
    torch.testing.assert_close(policy.lose.grad, -0.5 * BETA * (reference.lose - target.lose) / DIMS)


@pytest.mark.parametrize(
    ("dtype", "beta"),
    [
        (torch.bfloat16, 16000.0),
        (torch.bfloat16, 1e12),
        (torch.float32, 1e12),
        (torch.float32, 1e30),
        (torch.float16, 16000.0),
    ],
)
def test_finite_in_low_precision_and_at_huge_beta(dtype: torch.dtype, beta: float) -> None:
    win, lose = (normal(seed, torch.float32).to(dtype).requires_grad_() for seed in (0, 1))
    result = preference_loss(WinLose(win, lose), pair(1, dtype), pair(2, dtype), beta=beta)
    assert result.loss.dtype == torch.float32
    result.loss.sum().backward()
    for value in (result.loss, result.margin, win.grad, lose.grad):
        assert value is not None
        assert value.isfinite().all()
    assert (result.loss >= 0).all()


def test_errors_are_computed_in_float32() -> None:
    policy, reference, target = (pair(seed, torch.bfloat16) for seed in (0, 1, 2))
    wide = [WinLose(sides.win.float(), sides.lose.float()) for sides in (policy, reference, target)]
    narrow_result = preference_loss(policy, reference, target, beta=BETA)
    assert torch.equal(narrow_result.margin, preference_loss(*wide, beta=BETA).margin)
    assert preference_loss(pair(0), pair(1), pair(2), beta=BETA).loss.dtype == torch.float64


def test_gradient_is_the_derivative() -> None:
    win, lose = normal(0).requires_grad_(), normal(1).requires_grad_()
    reference, target = pair(1), pair(2)
    assert torch.autograd.gradcheck(
        lambda *sides: preference_loss(WinLose(*sides), reference, target, beta=BETA).loss, (win, lose)
    )


def plain_diffusion_dpo(policy: Tensor, reference: Tensor, noise: Tensor, beta: float) -> Tensor:
    """Diffusion-DPO in scalar loops: [2B, C, H, W], winners first, the same noise for both sides."""
    pairs = len(policy) // 2
    losses = []
    for i in range(pairs):
        distances = {}
        for who, prediction in (("policy", policy), ("reference", reference)):
            for side, row in (("win", i), ("lose", i + pairs)):
                elements = zip(noise[i].flatten().tolist(), prediction[row].flatten().tolist(), strict=True)
                squares = [(n - p) ** 2 for n, p in elements]
                distances[who, side] = sum(squares) / len(squares)
        win = distances["policy", "win"] - distances["reference", "win"]
        lose = distances["policy", "lose"] - distances["reference", "lose"]
        losses.append(-math.log(1 / (1 + math.exp(beta / 2 * (win - lose)))))
    return torch.tensor(losses, dtype=torch.float64)


def test_equals_an_independent_diffusion_dpo_when_targets_are_the_noise() -> None:
    policy, reference, noise = pair(0), pair(1), normal(9)
    result = preference_loss(policy, reference, WinLose(noise, noise), beta=BETA)
    expected = plain_diffusion_dpo(policy.stacked(), reference.stacked(), noise, BETA)
    torch.testing.assert_close(result.loss, expected, rtol=1e-12, atol=1e-12)


def contrastive(drift_win: Tensor, drift_lose: Tensor, contrast: Tensor, **settings: Any) -> PairLoss:
    """TF-CPP around a random reference; contrast is d = reference(x_lose, c) - reference(x_lose, c⁻)."""
    reference = pair(5)
    policy = WinLose(reference.win + drift_win, reference.lose + drift_lose)
    target = WinLose(reference.win, reference.lose - contrast)
    return preference_loss(policy, reference, target, **settings)


def test_margin_expansion_with_contrastive_targets() -> None:
    drift_win, drift_lose, contrast = normal(20), normal(21), normal(22)
    result = contrastive(drift_win, drift_lose, contrast, beta=BETA)
    # (beta/2) (2 <u, d> + |u|²) / dims on the losing side, -(beta/2) |u_win|² / dims on the winning side
    lose = 2 * (drift_lose * contrast).flatten(1).sum(1) + drift_lose.square().flatten(1).sum(1)
    win = drift_win.square().flatten(1).sum(1)
    torch.testing.assert_close(result.margin, BETA / 2 * (lose - win) / DIMS)


def test_winning_side_is_an_anchor_with_contrastive_targets() -> None:
    drift_win, drift_lose = torch.zeros(SHAPE, dtype=torch.float64), torch.zeros(SHAPE, dtype=torch.float64)
    contrast = normal(22)
    result = contrastive(drift_win.requires_grad_(), drift_lose.requires_grad_(), contrast, beta=BETA)
    result.loss.sum().backward()
    assert drift_win.grad is not None
    assert drift_lose.grad is not None
    assert not drift_win.grad.any()
    torch.testing.assert_close(drift_lose.grad, -0.5 * BETA * contrast / DIMS)  # descent moves along +contrast


def test_loss_saturates_once_the_policy_went_far_enough_along_the_contrast() -> None:
    contrast, still = normal(22), torch.zeros(SHAPE, dtype=torch.float64)
    losses = [contrastive(still, step * contrast, contrast, beta=BETA).loss for step in (0.0, 0.1, 0.5, 1.0)]
    for earlier, later in zip(losses, losses[1:], strict=False):
        assert (later < earlier).all()
    assert (losses[-1] < 1e-6).all()
