"""What is refused before the first step, and what trackers are told of the recipe."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ddspo.errors import UserError
from ddspo.recipe import Recipe
from ddspo.training.loop import train
from ddspo.training.setup import start_accelerator, tracker_config
from helpers.training_cases import make_case, make_pairs


def test_lora_on_a_float16_base_needs_loss_scaling(tmp_path: Path) -> None:
    """Gradients pass the frozen layers in float16, where those of a large batch are below its smallest number."""

    def start(**training: str) -> None:
        start_accelerator(
            Recipe.model_validate({"model": {"frozen_dtype": "fp16"}, "training": training}), tmp_path / "run"
        )

    with pytest.raises(UserError, match="frozen_dtype fp16 needs training.mixed_precision fp16"):
        start(parameters="lora")
    start(parameters="lora", mixed_precision="bf16")  # its range is float32's


def test_pairs_of_another_reference_are_refused(folder: Path, tmp_path: Path) -> None:
    recipe, _ = make_case(folder)
    pairs = make_pairs(tmp_path / "pairs", Path(recipe.model.base), fingerprint="someone else's")
    with pytest.raises(UserError, match="another reference.*someone else's"):
        train(recipe, pairs, tmp_path / "run")


def test_a_full_disk_is_told_before_training(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, pairs = make_case(folder)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("ddspo.files.shutil.disk_usage", lambda _: usage._replace(free=100_000))
    with pytest.raises(UserError, match="training needs .* GB"):
        train(recipe, pairs, tmp_path / "run")
    assert (
        not (tmp_path / "run" / "metrics.jsonl").read_text() if (tmp_path / "run" / "metrics.jsonl").exists() else True
    )


def test_fp16_on_a_cpu_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    recipe, pairs = make_case(folder, mixed_precision="fp16")
    with pytest.raises(UserError, match="fp16.*bf16"):
        train(recipe, pairs, tmp_path / "run")


def test_a_launch_that_would_train_twice_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, pairs = make_case(folder)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="2 processes but each would train alone.*torchrun"):
        train(recipe, pairs, tmp_path / "run")


def test_an_unknown_tracker_is_refused(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder, trackers=("carrier_pigeon",))
    with pytest.raises(UserError, match="carrier_pigeon"):
        train(recipe, pairs, tmp_path / "run")


def test_tracker_config_is_flat(folder: Path) -> None:
    config = tracker_config(make_case(folder)[0])
    assert config["training.optimizer.learning_rate"] == 1e-3
    assert config["training.trackers"] == "[]"
    assert all(isinstance(value, str | int | float | bool) for value in config.values())
