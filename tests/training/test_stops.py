"""What stops a run at a step, and what looks like it and does not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from ddspo.errors import UserError
from ddspo.objectives import PairLoss
from ddspo.objectives.margin import preference_margin
from ddspo.training import run as run_module
from ddspo.training import step as step_module
from ddspo.training.loop import train
from helpers.training_cases import Killed, changed, make_case, make_pairs, metrics_of, policy_bytes, stop_in_checkpoint


def test_numbers_that_are_not_finite_stop_the_run_and_leave_it_resumable(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, pairs = make_case(folder)
    unbroken = train(recipe, pairs, tmp_path / "unbroken")
    original = run_module.make_step

    def poisoned_step(*args: Any) -> Any:
        step, calls = original(*args), iter(range(1000))

        def poisoned(batch: Any, **options: Any) -> Any:
            outcome = step(batch, **options)
            if next(calls) == 5:  # the second micro batch of step 3
                outcome.loss.mul_(math.nan)
            return outcome

        return poisoned

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "make_step", poisoned_step)
        with pytest.raises(UserError, match="step 3: the loss is nan.*step-000002.*learning_rate.*beta.*bf16"):
            train(recipe, pairs, tmp_path / "run")
    rows = metrics_of(tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 2]
    train(recipe, pairs, tmp_path / "run")
    assert policy_bytes(tmp_path / "run") == policy_bytes(tmp_path / "unbroken")
    assert metrics_of(tmp_path / "run")[-1]["loss"] == unbroken.metrics["loss"]


def test_a_runaway_learning_rate_is_told(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder, parameters="full", optimizer={"learning_rate": 1e30}, checkpoint_every_steps=1)
    with pytest.raises(UserError, match="step 2: the loss is (nan|inf).*step-000001"):
        train(recipe, pairs, tmp_path / "run")


def test_degraded_prompts_equal_to_their_prompts_teach_nothing(folder: Path, tmp_path: Path) -> None:
    recipe, _ = make_case(folder)
    pairs = make_pairs(tmp_path / "pairs", Path(recipe.model.base), degraded="a red cat")
    with pytest.raises(UserError, match="nothing to learn.*degraded prompts"):
        train(recipe, pairs, tmp_path / "run")


def test_pairs_that_are_all_settled_do_not_stop_a_resumed_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, pairs = make_case(folder)
    recipe = changed(recipe, objective={"name": "hinge"})
    with monkeypatch.context() as patch:
        stop_in_checkpoint(patch, 2, before=False)
        with pytest.raises(Killed):
            train(recipe, pairs, tmp_path / "run")

    def settled(policy: Any, reference: Any, target: Any, settings: Any, beta: float) -> PairLoss:
        margin = preference_margin(policy, reference, target, beta=beta) * 0 + 2
        return PairLoss(torch.relu(1 - margin), margin)

    monkeypatch.setitem(step_module.OBJECTIVES, "hinge", settled)
    assert train(recipe, pairs, tmp_path / "run").steps == 4
    assert metrics_of(tmp_path / "run")[-1]["gradient_norm"] == 0


def test_dspo_whose_margin_stays_at_zero_is_not_called_stuck(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder)
    recipe = changed(recipe, objective={"name": "dspo", "beta": 0.001}, target={"source": "forward_noise"})
    train(recipe, pairs, tmp_path / "run")
    assert not [row["warning"] for row in metrics_of(tmp_path / "run") if "warning" in row]
