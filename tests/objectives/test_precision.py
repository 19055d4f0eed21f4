"""Low precision inputs: every objective widens them before it takes differences, and answers in float32."""

from __future__ import annotations

import pytest
import torch

from ddspo.objectives import OBJECTIVES
from ddspo.objectives.anchor import drift_anchor
from ddspo.objectives.dspo import contrastive_dspo_loss
from ddspo.objectives.safeguard import losing_scale
from ddspo.recipe import Objective
from ddspo.tensors import WinLose
from helpers.sides import normal, pair

BETA = 50.0


def close_predictions() -> list[WinLose]:
    """Policy, reference and target in bfloat16, a few hundredths apart: a rounded difference would be far off."""
    base = pair(0, torch.float32)
    sides = [
        WinLose(base.win + 0.05 * normal(2 * n, torch.float32), base.lose + 0.05 * normal(2 * n + 1, torch.float32))
        for n in (5, 6, 7)
    ]
    return [WinLose(side.win.bfloat16(), side.lose.bfloat16()) for side in sides]


def widened(sides: list[WinLose]) -> list[WinLose]:
    return [WinLose(side.win.float(), side.lose.float()) for side in sides]


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_every_objective_agrees_with_itself_on_widened_inputs(name: str) -> None:
    low = close_predictions()
    settings = Objective.model_validate({"name": name, "beta": BETA})
    results = [OBJECTIVES[name](*sides, settings, BETA) for sides in (low, widened(low))]
    for result in results:
        assert result.loss.dtype == torch.float32
        torch.testing.assert_close(result.loss, results[1].loss, rtol=1e-6, atol=0)
    if results[0].margin is not None and results[1].margin is not None:
        assert results[0].margin.dtype == torch.float32
        torch.testing.assert_close(results[0].margin, results[1].margin, rtol=1e-6, atol=1e-6)


def test_so_do_contrastive_dspo_the_safeguard_and_the_anchor() -> None:
    low = close_predictions()
    wide = widened(low)
    losses = [contrastive_dspo_loss(*sides, beta=BETA).loss for sides in (low, wide)]
    torch.testing.assert_close(*losses, rtol=1e-6, atol=0)
    scales = [
        losing_scale(policy, target, mu=0.5, free=reference.lose - target.lose)
        for policy, reference, target in (low, wide)
    ]
    assert ((scales[1] > 0) & (scales[1] <= 1)).any()
    torch.testing.assert_close(*scales, rtol=1e-2, atol=1e-2)  # d itself was subtracted in bfloat16
    prices = [drift_anchor(policy, reference, unit=2.0, anchor=0.5) for policy, reference, _ in (low, wide)]
    torch.testing.assert_close(*prices, rtol=1e-6, atol=0)
