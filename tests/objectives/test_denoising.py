from __future__ import annotations

import pytest
import torch

from ddspo.objectives.denoising import denoising_loss
from ddspo.objectives.errors import squared_error
from ddspo.tensors import WinLose


def test_hand_computed_values() -> None:
    prediction = torch.tensor([[[[1.0, 2.0]]], [[[0.0, 0.0]]]])
    target = torch.tensor([[[[0.0, 4.0]]], [[[0.0, 3.0]]]])
    assert squared_error(prediction, target).tolist() == [(1 + 4) / 2, 9 / 2]
    nowhere = torch.full_like(prediction, torch.nan)
    result = denoising_loss(WinLose(prediction, nowhere), WinLose(target, nowhere))
    assert result.loss.tolist() == [2.5, 4.5]
    assert result.margin is None


def test_error_is_a_mean_so_it_does_not_grow_with_the_picture() -> None:
    small, large = torch.full((2, 4, 8, 8), 3.0), torch.full((2, 4, 64, 64), 3.0)
    assert squared_error(small, torch.zeros_like(small)).tolist() == [9.0, 9.0]
    assert squared_error(large, torch.zeros_like(large)).tolist() == [9.0, 9.0]


@pytest.mark.parametrize(
    ("prediction", "target", "expected"),
    [
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.float16, torch.float32, torch.float32),
        (torch.float32, torch.float64, torch.float64),
        (torch.bfloat16, torch.float64, torch.float64),
    ],
)
def test_dtype(prediction: torch.dtype, target: torch.dtype, expected: torch.dtype) -> None:
    error = squared_error(torch.ones(2, 3, dtype=prediction), torch.zeros(2, 3, dtype=target))
    assert error.dtype == expected
    assert error.tolist() == [1.0, 1.0]


def test_low_precision_differences_are_not_rounded() -> None:
    close = torch.full((1, 64), 1.0, dtype=torch.float16)
    far = torch.full((1, 64), 300.0, dtype=torch.float16)  # 299² does not fit into float16
    assert squared_error(far, close).item() == 299.0**2


def test_gradient() -> None:
    prediction, target = torch.tensor([[1.0, 5.0]], requires_grad=True), torch.tensor([[0.0, 1.0]])
    denoising_loss(WinLose(prediction, prediction), WinLose(target, target)).loss.sum().backward()
    assert prediction.grad is not None
    assert prediction.grad.tolist() == [[1.0, 4.0]]  # 2 (p - q) / dims
