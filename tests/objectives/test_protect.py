"""Forms that protect quality: the published one with all off, the published gradient at the start, bounded far away."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ddspo.objectives.margin import preference_margin
from ddspo.objectives.protect import linear_lose_part, lose_part, protected_loss, protected_margin, trust_bound
from ddspo.tensors import WinLose

SHAPE = (3, 4, 2, 2)
FORMS: list[dict[str, Any]] = [
    {"lose_reward": False},
    {"lose_weight": 0.3},
    {"trust_region": 0.5},
    {"lose_reward": False, "trust_region": 2.0},
]


def draw(seed: int) -> torch.Tensor:
    return torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def reference() -> WinLose:
    return WinLose(draw(1), draw(2))


@pytest.fixture
def target(reference: WinLose) -> WinLose:
    """Training-free: the winning target is the reference."""
    return WinLose(reference.win, reference.lose - draw(3))


def gradients(policy: WinLose, reference: WinLose, target: WinLose, **form: Any) -> WinLose:
    win, lose = (side.clone().requires_grad_() for side in (policy.win, policy.lose))
    protected_margin(WinLose(win, lose), reference, target, beta=10.0, **form).sum().backward()
    assert win.grad is not None
    assert lose.grad is not None
    return WinLose(win.grad, lose.grad)


def test_all_off_is_the_published_margin(reference: WinLose, target: WinLose) -> None:
    policy = WinLose(draw(4), draw(5))
    ours = protected_margin(policy, reference, target, beta=7.0)
    torch.testing.assert_close(ours, preference_margin(policy, reference, target, beta=7.0), rtol=1e-12, atol=1e-12)
    loss = protected_loss(policy, reference, target, beta=7.0)
    torch.testing.assert_close(loss.loss, torch.nn.functional.softplus(-ours), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_at_the_reference_margin_is_zero_and_the_gradient_is_the_published_one(
    reference: WinLose, target: WinLose, form: dict[str, Any]
) -> None:
    loss = protected_loss(reference, reference, target, beta=10.0, **form).loss
    torch.testing.assert_close(loss, torch.full((3,), math.log(2), dtype=torch.float64))
    published, ours = (gradients(reference, reference, target, **kind) for kind in ({}, form))
    direction = (reference.lose - target.lose) * 10.0 / reference.lose[0].numel()
    torch.testing.assert_close(published.lose, direction, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours.lose, published.lose * form.get("lose_weight", 1.0), rtol=1e-9, atol=1e-12)
    assert ours.win.abs().max() == 0


def test_without_the_reward_movement_across_the_signal_earns_nothing(reference: WinLose, target: WinLose) -> None:
    signal = reference.lose - target.lose
    across = draw(6)
    across -= signal * ((across * signal).flatten(1).sum(1) / signal.square().flatten(1).sum(1))[:, None, None, None]
    moved = reference.lose + 50 * across
    linear = linear_lose_part(moved, reference.lose, target.lose, beta=2.0)
    torch.testing.assert_close(linear, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-9)
    assert (lose_part(moved, reference.lose, target.lose, beta=2.0) > 500).all()
    for steps in (0.1, 1.0, 30.0):  # along the signal it grows in proportion, the published form by steps + steps²/2
        moved, unit = reference.lose + steps * signal, 2.0 * signal.square().flatten(1).mean(1)
        linear = linear_lose_part(moved, reference.lose, target.lose, beta=2.0)
        torch.testing.assert_close(linear, unit * steps, rtol=1e-9, atol=1e-9)
        published = lose_part(moved, reference.lose, target.lose, beta=2.0)
        torch.testing.assert_close(published, unit * (steps + steps**2 / 2), rtol=1e-9, atol=1e-9)


def test_without_the_reward_the_loss_is_convex_and_the_published_one_is_not(
    reference: WinLose, target: WinLose
) -> None:
    def bend(near: WinLose, far: WinLose, **form: Any) -> torch.Tensor:
        middle = WinLose((near.win + far.win) / 2, (near.lose + far.lose) / 2)
        one, other, half = (
            protected_loss(p, reference, target, beta=3.0, **form).loss for p in (near, far, middle)
        )  # fmt: skip
        return (one + other) / 2 - half

    ends = [
        (WinLose(draw(s), draw(s + 1)), WinLose(draw(s + 2), draw(s + 3))) for s in range(10, 90, 4)
    ]  # fmt: skip
    assert all((bend(*pair, lose_reward=False) >= -1e-12).all() for pair in ends)
    assert any((bend(*pair) < 0).any() for pair in ends)


@pytest.mark.parametrize("reward", [True, False])
@pytest.mark.parametrize("tau", [0.25, 1.0, 4.0])
def test_the_trust_bound_is_the_most_that_drift_within_it_can_give(
    reference: WinLose, target: WinLose, tau: float, reward: bool
) -> None:
    signal = reference.lose - target.lose
    part = lose_part if reward else linear_lose_part
    bound = trust_bound(reference.lose, target.lose, beta=3.0, trust_region=tau, lose_reward=reward)
    best = part(reference.lose + tau**0.5 * signal, reference.lose, target.lose, beta=3.0)
    torch.testing.assert_close(best, bound, rtol=1e-9, atol=1e-12)
    length = signal.square().flatten(1).sum(1).sqrt()
    for seed in range(20):
        other = draw(seed)
        other *= (tau**0.5 * length / other.square().flatten(1).sum(1).sqrt())[:, None, None, None]
        assert (part(reference.lose + other, reference.lose, target.lose, beta=3.0) <= bound + 1e-9).all()


@pytest.mark.parametrize("reward", [True, False])
def test_beyond_the_trust_region_only_the_winning_side_still_moves(
    reference: WinLose, target: WinLose, reward: bool
) -> None:
    signal = reference.lose - target.lose
    for steps, pushes in ((0.99, True), (1.01, False), (40.0, False)):
        policy = WinLose(reference.win + 0.1, reference.lose + steps * signal)
        gradient = gradients(policy, reference, target, trust_region=1.0, lose_reward=reward)
        assert bool(gradient.lose.abs().sum() > 0) is pushes
        assert (gradient.win < 0).all()  # margin falls with drift of the winning side, inside and outside
    form: dict[str, Any] = {"beta": 3.0, "trust_region": 1.0, "lose_reward": reward}
    far = protected_margin(WinLose(reference.win, reference.lose + 1e3 * signal), reference, target, **form)
    torch.testing.assert_close(far, trust_bound(reference.lose, target.lose, **form))


def test_float32_and_half_inputs_agree() -> None:
    half = [draw(seed).to(torch.bfloat16) for seed in range(6)]
    sides = [WinLose(half[i], half[i + 1]) for i in (0, 2, 4)]
    wide = [WinLose(side.win.float(), side.lose.float()) for side in sides]
    for form in FORMS:
        ours = protected_margin(*sides, beta=2.0, **form)
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, protected_margin(*wide, beta=2.0, **form), rtol=1e-5, atol=1e-5)
