from __future__ import annotations

import pytest
import torch

from ddspo.objectives.anchor import drift_anchor
from ddspo.objectives.preference import preference_loss
from ddspo.tensors import WinLose


def test_hand_computed_value() -> None:
    policy = WinLose(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 2.0]]))
    reference = WinLose(torch.zeros(1, 2), torch.zeros(1, 2))
    # errors (1 + 9) / 2 = 5 and (0 + 4) / 2 = 2; 0.5 · (10 / 2) · 7
    assert drift_anchor(policy, reference, unit=5.0, anchor=0.5).tolist() == [17.5]


def test_each_side_has_its_price() -> None:
    policy = WinLose(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 2.0]]))
    reference = WinLose(torch.zeros(1, 2), torch.zeros(1, 2))
    assert drift_anchor(policy, reference, unit=10.0, anchor=0.0, lose_anchor=0.5).tolist() == [10.0]
    assert drift_anchor(policy, reference, unit=10.0, anchor=0.5, lose_anchor=0.0).tolist() == [25.0]


def test_is_zero_at_the_reference_and_adds_no_gradient_there() -> None:
    reference = WinLose(torch.randn(3, 4), torch.randn(3, 4))
    policy = WinLose(reference.win.clone().requires_grad_(), reference.lose.clone().requires_grad_())
    value = drift_anchor(policy, reference, unit=50.0, anchor=2.0)
    value.sum().backward()
    assert value.tolist() == [0.0] * 3
    assert not policy.win.grad.any() and not policy.lose.grad.any()


@pytest.mark.parametrize("anchor", [0.5, 1.0, 2.0])
def test_a_shared_drift_settles_at_d_over_four_anchors(anchor: float) -> None:
    """Where the margin is far from saturated: gradient -(beta/2)·d + 2·anchor·beta·u = 0."""
    generator = torch.Generator().manual_seed(0)
    d = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    reference = WinLose(torch.zeros_like(d), torch.zeros_like(d))
    target = WinLose(reference.win, reference.lose - d)
    u = torch.zeros_like(d, requires_grad=True)
    beta = 1e-6
    for _ in range(400):
        both = WinLose(u, u)
        loss = preference_loss(both, reference, target, beta=beta).loss
        loss = loss + drift_anchor(both, reference, unit=beta / 2, anchor=anchor)
        (gradient,) = torch.autograd.grad(loss.sum() / beta, u)
        u = (u - 0.5 * gradient).detach().requires_grad_()
    torch.testing.assert_close(u.detach(), d / (4 * anchor), rtol=1e-4, atol=1e-6)


def test_without_it_a_drift_against_nothing_is_free() -> None:
    """What the anchor is for: a shared u at right angles to d leaves the margin where it was."""
    d = torch.tensor([[1.0, 0.0]])
    u = torch.tensor([[0.0, 5.0]])
    reference = WinLose(torch.zeros(1, 2), torch.zeros(1, 2))
    both = WinLose(u, u)
    assert preference_loss(both, reference, WinLose(reference.win, -d), beta=10.0).margin.tolist() == [0.0]
    assert drift_anchor(both, reference, unit=5.0, anchor=1.0).item() > 0
