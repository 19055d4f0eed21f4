"""`ddspo merge` and `ddspo push` as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ddspo import hub, recipe
from ddspo.cli import app
from ddspo.families.load import load_family
from ddspo.families.roles import Roles
from helpers.tiny_pipelines import tiny_sd


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a LoRA policy in it."""
    folder = tmp_path_factory.mktemp("case")
    roles = Roles.lora(load_family(str(tiny_sd(folder))), recipe.Lora(rank=2), 0)
    roles.save_policy(folder / "run" / "policy_run" / "policy", card="# card\n")
    return folder / "run"


def test_merge_takes_a_run_and_tells_where_the_pipeline_is(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "merged"
    planned = CliRunner().invoke(app, ["merge", str(run), "--output", str(output), "--dry-run"])
    assert planned.exit_code == 0 and "would merge" in planned.output and not output.exists()
    done = CliRunner().invoke(app, ["merge", str(run), "--output", str(output)])
    assert done.exit_code == 0 and done.output.strip() == str(output)
    assert (output / "model_index.json").is_file() and (output / "unet").is_dir()
    again = CliRunner().invoke(app, ["merge", str(output), "--output", str(tmp_path / "twice")])
    assert again.exit_code == 2 and "complete pipeline already" in again.output


def test_push_is_one_call_and_its_mistakes_one_line(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = CliRunner().invoke(app, ["push", str(run), "owner/name", "--dry-run"])
    assert planned.exit_code == 0 and "to owner/name" in planned.output
    asked: list[tuple[Path, str, bool]] = []

    def push(policy: Path, repo_id: str, *, private: bool) -> str:
        asked.append((policy, repo_id, private))
        return "https://hub.example/owner/name"

    monkeypatch.setattr(hub, "push_policy", push)
    done = CliRunner().invoke(app, ["push", str(run), "owner/name", "--private"])
    assert done.exit_code == 0 and asked == [(run / "policy_run" / "policy", "owner/name", True)]
    missing = CliRunner().invoke(app, ["push", str(tmp_path), "owner/name"])
    assert missing.exit_code == 2 and "holds no trained policy" in missing.output
