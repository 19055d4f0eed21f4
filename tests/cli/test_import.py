"""`ddspo import` as a verb: a plan, a result line, a mistake in one line, and pairs that `ddspo train` takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ddspo.cli import app
from ddspo.pairs.store import PairStore
from helpers.preference_sets import row, write_parquet
from helpers.tiny_pipelines import tiny_sd


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("case")
    path = folder / "recipe.yaml"
    path.write_text(
        f"name: people\noutput: {folder / 'run'}\nmodel: {{base: {tiny_sd(folder)}}}\n"
        "target: {source: forward_noise}\nobjective: {beta: 200}\nevaluation: {scorers: [], set_metrics: []}\n"
        "training: {max_steps: 1, global_batch_pairs: 2, micro_batch_pairs: 2, lora: {rank: 2}}\n"
    )
    return path


def test_import_then_train(tmp_path: Path, recipe: Path) -> None:
    source = write_parquet(tmp_path / "set.parquet", [row(0), row(1, label=0.5), row(2)])
    command = ["import", str(source), "--recipe", str(recipe), "--output", str(tmp_path / "pairs"), "--flip"]
    plan = CliRunner().invoke(app, [*command, "--dry-run"], catch_exceptions=False)
    assert plan.exit_code == 0 and plan.stdout.startswith(f"3 rows of {source}")
    assert not (tmp_path / "pairs").exists()
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0
    assert "imported 2 pairs of 3 rows in 1 sizes; left out: 1 tie" in done.stdout
    assert len(PairStore(tmp_path / "pairs")) == 2
    trained = CliRunner().invoke(
        app, ["train", str(recipe), "--pairs", str(tmp_path / "pairs")], catch_exceptions=False
    )
    assert trained.exit_code == 0, trained.stderr
    assert (recipe.parent / "run" / "policy_run" / "policy" / "pytorch_lora_weights.safetensors").is_file()
    assert list((tmp_path / "pairs" / "text").glob("*/text-*.safetensors"))


def test_a_mistake_is_one_line(tmp_path: Path, recipe: Path) -> None:
    command = ["import", str(tmp_path / "no.csv"), "--recipe", str(recipe), "--output", str(tmp_path / "pairs")]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ") and "no.csv does not exist; give a .parquet file" in line
