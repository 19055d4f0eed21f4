"""The folder of a run: finished work is kept, work under way left alone, other folders refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from ddspo.errors import UserError
from ddspo.recipe import Recipe
from ddspo.training import loop as loop_module
from ddspo.training.loop import train
from helpers.training_cases import changed, make_case, metrics_of


def test_a_finished_run_is_returned_without_work(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, pairs = make_case(folder, max_steps=1)
    first = train(recipe, pairs, tmp_path / "run")
    monkeypatch.setattr("ddspo.training.loop.load_model", None)
    assert train(recipe, pairs, tmp_path / "run") == first
    assert first.policy == tmp_path / "run" / "policy"
    assert first.steps == first.metrics["step"] == 1


def test_a_finished_run_keeps_the_recipe_it_was_made_with(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder, max_steps=1)
    train(recipe, pairs, tmp_path / "run")
    written = {name: (tmp_path / "run" / name).read_bytes() for name in ("recipe.yaml", "environment.json")}
    (tmp_path / "run" / "environment.json").write_bytes(written["environment.json"] + b" ")
    train(make_case(folder, max_steps=1, checkpoint_every_steps=7)[0], pairs, tmp_path / "run")
    assert (tmp_path / "run" / "recipe.yaml").read_bytes() == written["recipe.yaml"]
    assert (tmp_path / "run" / "environment.json").read_bytes() == written["environment.json"] + b" "
    shutil.rmtree(tmp_path / "run" / "policy")  # not finished: it goes on with what is asked now
    train(make_case(folder, max_steps=1, checkpoint_every_steps=7)[0], pairs, tmp_path / "run")
    assert "checkpoint_every_steps: 7" in (tmp_path / "run" / "recipe.yaml").read_text()


def test_a_run_that_is_trained_already_is_left_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, pairs = make_case(folder, max_steps=1)
    again: list[str] = []

    def twice(run: Any) -> None:
        partial = tmp_path / "run" / ".recipe.yaml.1.partial"
        partial.touch()
        before = sorted((path.name, path.read_bytes()) for path in (tmp_path / "run").glob("*.*"))
        with pytest.raises(UserError) as caught:
            train(recipe, pairs, tmp_path / "run")
        again.append(str(caught.value))
        assert sorted((path.name, path.read_bytes()) for path in (tmp_path / "run").glob("*.*")) == before
        partial.unlink()

    genuine = loop_module.train_steps
    monkeypatch.setattr(loop_module, "train_steps", lambda run: (twice(run), genuine(run)))
    train(recipe, pairs, tmp_path / "run")
    assert len(again) == 1 and "run is in use: `ddspo train` is already at work there (process" in again[0]
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.parametrize("content", ['{"step": 1, "lo', "[1]\n", ""])
def test_damaged_metrics_of_a_finished_run_are_told_in_one_line(folder: Path, tmp_path: Path, content: str) -> None:
    recipe, pairs = make_case(folder, max_steps=1)
    train(recipe, pairs, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text(content)
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged"):
        train(recipe, pairs, tmp_path / "run")


def refusals(recipe: Recipe) -> list[tuple[Recipe, str]]:
    return [
        (changed(recipe, seed=4), "seed: 3 there, 4 now"),
        (changed(recipe, objective={"beta": 100.0}), "objective.beta: 200.0 there, 100.0 now"),
        (changed(recipe, training={"max_steps": 9}), "training.max_steps: 4 there, 9 now"),
        (changed(recipe, training={"ema_decay": 0.5}), "training.ema_decay"),
    ]


def test_another_runs_folder_is_refused_with_the_difference(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder)
    train(recipe, pairs, tmp_path / "run")
    before = metrics_of(tmp_path / "run", timing=True)
    for other, message in refusals(recipe):
        with pytest.raises(UserError, match=message):
            train(other, pairs, tmp_path / "run")
    assert metrics_of(tmp_path / "run", timing=True) == before


def test_a_folder_with_other_files_is_refused(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="already holds other files"):
        train(recipe, pairs, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
