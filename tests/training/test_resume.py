"""A resumed run equals an unbroken one bit for bit; settings that do not change the result may change."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ddspo.recipe import Recipe
from ddspo.training import loop as loop_module
from ddspo.training.checkpoint import latest_checkpoint
from ddspo.training.loop import train
from ddspo.training.setup import start_accelerator
from helpers.training_cases import Killed, changed, make_case, metrics_of, policy_bytes, stop_in_checkpoint


@pytest.mark.parametrize(
    ("parameters", "ema_decay", "before"), [("lora", None, True), ("lora", 0.9, False), ("full", 0.9, True)]
)
def test_resumed_equals_unbroken_bit_for_bit(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    parameters: str,
    ema_decay: float | None,
    before: bool,
) -> None:
    schedule = {"learning_rate": 1e-3, "schedule": "cosine", "warmup_steps": 2}
    recipe, pairs = make_case(
        folder, parameters=parameters, ema_decay=ema_decay, max_steps=5, checkpoint_every_steps=2, optimizer=schedule
    )
    unbroken = train(recipe, pairs, tmp_path / "unbroken")
    with monkeypatch.context() as patch:
        stop_in_checkpoint(patch, 4, before=before)
        with pytest.raises(Killed):
            train(recipe, pairs, tmp_path / "broken")
    with (tmp_path / "broken" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    resumed = train(recipe, pairs, tmp_path / "broken")

    assert policy_bytes(tmp_path / "broken") == policy_bytes(tmp_path / "unbroken") != {}
    assert metrics_of(tmp_path / "broken") == metrics_of(tmp_path / "unbroken")
    assert [row["step"] for row in metrics_of(tmp_path / "broken")] == [1, 2, 3, 4, 5]
    assert resumed.cost["network_evaluations"] == unbroken.cost["network_evaluations"] == 5 * 4 * 9
    left, right = (latest_checkpoint(tmp_path / name / "checkpoints") for name in ("broken", "unbroken"))
    assert left is not None
    assert right is not None
    assert left.tensors.keys() == right.tensors.keys()
    for group, tensors in left.tensors.items():
        assert all(torch.equal(tensor, right.tensors[group][name]) for name, tensor in tensors.items())


def test_a_torn_checkpoint_costs_only_time(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder)
    train(recipe, pairs, tmp_path / "run")
    expected = policy_bytes(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "policy")
    torn = tmp_path / "run" / "checkpoints" / "step-000004" / "optimizer.safetensors"
    torn.write_bytes(torn.read_bytes()[:1000])
    train(recipe, pairs, tmp_path / "run")
    assert policy_bytes(tmp_path / "run") == expected
    assert [row["step"] for row in metrics_of(tmp_path / "run")] == [1, 2, 3, 4]


def test_a_resumed_run_goes_on_with_the_scale_it_had(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scaler of fp16, here on the CPU: it begins where gradients overflow and finds its scale step by step."""

    def scaled(recipe: Recipe, output: Path) -> Any:
        accelerator = start_accelerator(recipe, output)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=2)
        return accelerator

    monkeypatch.setattr(loop_module, "start_accelerator", scaled)
    recipe, pairs = make_case(folder, max_steps=8, ema_decay=0.9)
    train(recipe, pairs, tmp_path / "unbroken")
    with monkeypatch.context() as patch:
        stop_in_checkpoint(patch, 4, before=False)
        with pytest.raises(Killed):
            train(recipe, pairs, tmp_path / "broken")
    train(recipe, pairs, tmp_path / "broken")
    skipped = [row["gradient_norm"] is None for row in metrics_of(tmp_path / "unbroken")]
    assert skipped[0] and 1 < skipped.count(True) < 7
    assert metrics_of(tmp_path / "broken") == metrics_of(tmp_path / "unbroken")
    assert policy_bytes(tmp_path / "broken") == policy_bytes(tmp_path / "unbroken") != {}


def test_what_does_not_change_the_result_may_change_on_resume(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, pairs = make_case(folder)
    with monkeypatch.context() as patch:
        stop_in_checkpoint(patch, 2, before=False)
        with pytest.raises(Killed):
            train(recipe, pairs, tmp_path / "run")
    other = changed(recipe, training={"checkpoint_every_steps": 3, "keep_checkpoints": 1, "micro_batch_pairs": 4})
    assert train(other, pairs, tmp_path / "run").steps == 4
