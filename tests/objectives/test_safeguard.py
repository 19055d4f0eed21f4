from __future__ import annotations

import pytest
import torch

from ddspo.objectives.preference import preference_loss
from ddspo.objectives.safeguard import losing_scale, safeguard
from ddspo.tensors import WinLose
from helpers.sides import contrastive, gradients, normal, pair

BETA = 40.0


def flat(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows)


def test_hand_computed_scales() -> None:
    zero = WinLose(torch.zeros(3, 2), torch.zeros(3, 2))
    win = flat([1, 0], [1, 0], [1, 0])
    lose = flat([4, 0], [-4, 1], [0.01, 0])
    # <a, b> = 4: (1 - 0.2) · 1 / 4; harmless: 1; above 1: clipped
    assert losing_scale(WinLose(win, lose), zero, mu=0.2).tolist() == pytest.approx([0.2, 1.0, 1.0])
    assert losing_scale(WinLose(win, lose), zero, mu=1.0).tolist() == pytest.approx([0.0, 1.0, 0.0])


def published_scale(policy: WinLose, target: WinLose, mu: float) -> float:
    """Diffusion-SDPO on a batch of one pair, gradients of the two errors by automatic differentiation."""
    win, lose = policy.win.clone().requires_grad_(), policy.lose.clone().requires_grad_()
    (g_a,) = torch.autograd.grad((win - target.win).pow(2).mean(), win)
    (g_b,) = torch.autograd.grad((lose - target.lose).pow(2).mean(), lose)
    inner = (g_a * g_b).sum().item()
    if inner <= 0:
        return 1.0
    return min(max((1 - mu) * g_a.pow(2).sum().item() / (inner + 1e-9), 0.0), 1.0)


@pytest.mark.parametrize("mu", [0.0, 0.6, 0.9])
def test_equals_the_published_scale_pair_by_pair(mu: float) -> None:
    policy, target = pair(0), pair(1)
    close = WinLose(policy.win, policy.win + 0.3 * policy.lose)  # so that some inner products are positive
    for row in range(3):
        one = slice(row, row + 1)
        mine = losing_scale(close, WinLose(target.win, target.win), mu=mu)[row].item()
        alone = WinLose(close.win[one], close.lose[one]), WinLose(target.win[one], target.win[one])
        assert mine == pytest.approx(published_scale(*alone, mu), rel=1e-5)


def test_value_stays_and_only_the_losing_gradient_is_scaled() -> None:
    policy, reference, target = pair(0), pair(1), pair(2)
    target = WinLose(target.win, policy.lose - (policy.win - target.win) - 0.5 * normal(7))  # a positive inner product
    plain = preference_loss(policy, reference, target, beta=BETA)
    guarded = preference_loss(safeguard(policy, target, mu=0.6), reference, target, beta=BETA)
    assert torch.equal(plain.loss, guarded.loss)
    scale = losing_scale(policy, target, mu=0.6)
    assert ((scale > 0) & (scale < 1)).any()
    before = gradients(lambda p: preference_loss(p, reference, target, beta=BETA), policy)
    after = gradients(lambda p: preference_loss(safeguard(p, target, mu=0.6), reference, target, beta=BETA), policy)
    torch.testing.assert_close(after.win, before.win)
    torch.testing.assert_close(after.lose, scale[:, None, None, None] * before.lose)


@pytest.mark.parametrize("mu", [0.0, 0.5, 0.9])
def test_the_winning_error_falls_by_at_least_mu_of_its_own_descent(mu: float) -> None:
    """What the scale is for, checked to first order with outputs in place of parameters."""
    for seed in range(20):
        policy, target = pair(seed), pair(50 + seed)
        scale = losing_scale(policy, target, mu=mu)[:, None, None, None]
        a, b = policy.win - target.win, policy.lose - target.lose
        change = (a * (-a + scale * b)).flatten(1).sum(1)
        assert (change <= -mu * a.square().flatten(1).sum(1) + 1e-9).all()


def test_published_form_on_contrastive_targets_switches_the_signal_off() -> None:
    reference, target, d = contrastive(3)
    little = WinLose(reference.win + 1e-4 * d, reference.lose + 1e-4 * d)
    assert losing_scale(little, target, mu=0.0).max() < 1e-3


def test_our_form_on_contrastive_targets_lets_the_winning_side_move_along_the_contrast() -> None:
    reference, target, d = contrastive(3)
    mu = 0.5

    def scale(win: torch.Tensor, lose: torch.Tensor) -> torch.Tensor:
        return losing_scale(WinLose(reference.win + win, reference.lose + lose), target, mu=mu, free=d)

    still = torch.zeros_like(d)
    assert scale(still, still).tolist() == [1.0] * 3  # nothing moved: full signal, no 0/0
    assert scale(0.4 * d, 0.4 * d).tolist() == [1.0] * 3  # within (1 - mu) d
    beyond = scale(2 * d, 2 * d)  # (1 - mu) a / (a + 1) at a = 2
    assert beyond.tolist() == pytest.approx([0.5 * 2 / 3] * 3)
    across = normal(77)
    across = (
        across
        - (across * d).flatten(1).sum(1)[:, None, None, None] / d.square().flatten(1).sum(1)[:, None, None, None] * d
    )
    assert (scale(10 * across, 10 * across) < 0.51).all()  # drift that is not along the contrast is held back


def test_a_losing_side_that_fell_behind_its_target_is_held_and_never_reversed() -> None:
    """Both <q, a> < 0 and <q, b> > 0: the quotient is negative, the scale is not."""
    reference, target, d = contrastive(3)
    behind = WinLose(reference.win + 0.3 * d, reference.lose - 2 * d)  # a = 0.3 d, q = -0.2 d, b = -d
    assert losing_scale(behind, target, mu=0.5, free=d).tolist() == [0.0] * 3


def test_mu_one_allows_the_winning_side_nothing() -> None:
    reference, target, d = contrastive(3)
    moved = WinLose(reference.win + 0.1 * d, reference.lose + 0.1 * d)
    assert losing_scale(moved, target, mu=1.0, free=d).tolist() == [0.0] * 3
