"""The command as a process: fast help, one line per mistake, exit statuses, and a dry run that writes nothing."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ddspo.cli import app
from ddspo.recipe_file import bundled_recipes
from helpers.base_folder import make_base

VERBS = ("demo", "align", "degrade", "pairs", "train", "evaluate", "report")


@dataclass(frozen=True)
class Ending:
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


def ddspo(*arguments: str | Path, cwd: Path | None = None) -> Ending:
    """Run the command in this process; an exception that a user would see as a traceback is raised."""
    with contextlib.chdir(cwd or Path.cwd()):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    return Ending(result.exit_code, result.stdout, result.stderr)


def ddspo_process(*arguments: str | Path) -> Ending:
    """Run the command as a user does."""
    result = subprocess.run(
        [sys.executable, "-m", "ddspo", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
    )
    return Ending(result.returncode, result.stdout, result.stderr)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}


def told(result: Ending) -> str:
    """The one line on standard error of a run that a user's mistake ended."""
    assert result.returncode == 2, result
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    return lines[0]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_base(tmp_path / "base")


def test_help_names_every_verb_within_a_second() -> None:
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        result = ddspo_process("--help")
        seconds.append(time.monotonic() - started)
        assert result.returncode == 0
        if seconds[-1] < 1:
            break
    assert min(seconds) < 1, seconds
    for verb in VERBS:
        assert f"\n  {verb} " in result.stdout
    assert "..." not in result.stdout.partition("Commands:")[2], "a verb's line in the list is cut off"


def test_the_command_line_imports_nothing_heavy() -> None:
    code = (
        "import sys, ddspo, ddspo.cli\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'diffusers', 'transformers', 'yaml', 'jinja2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_a_dry_run(verb: str) -> None:
    result = ddspo(verb, "--help")
    assert result.returncode == 0
    for option in ("--set", "--output", "--dry-run"):
        assert option in result.stdout


def test_a_mistake_ends_the_process_with_status_2() -> None:
    assert told(ddspo_process("align", "tinyscene")).endswith("did you mean tinyscenes?")


def test_version() -> None:
    assert ddspo("--version").stdout.startswith("ddspo 0.")


@pytest.mark.parametrize("name", bundled_recipes())
def test_dry_run_of_a_bundled_recipe(name: str, tmp_path: Path) -> None:
    result = ddspo("align", name, "--dry-run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "# recipe as resolved" in result.stdout and "# plan for runs/" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_dry_run_shows_overrides_and_costs(base: Path, tmp_path: Path) -> None:
    settings = (f"model.base={base}", "pairs.count=10", "pairs.sampling.steps=5", "training.max_steps=3")
    options = [part for setting in settings for part in ("--set", setting)]
    result = ddspo("pairs", "tinyscenes", "--dry-run", "--output", tmp_path / "run", *options)
    assert result.returncode == 0, result.stderr
    assert "  max_steps: 3" in result.stdout
    # 10 pairs, 2 sides, 5 + 1 calls (PNDM), 2 rows each with guidance
    assert "240" in result.stdout.split("# plan")[1]
    assert not (tmp_path / "run").exists()
    assert "train " not in result.stdout.split("# plan")[1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["align", "nothing.yaml"], "nothing.yaml: no such file"),
        (["align", "tinyscenes", "--set", "training.optimiser.x=1"], "did you mean training.optimizer?"),
        (["align", "tinyscenes", "--set", "training.max_steps=abc"], "training.max_steps: expected"),
        (["align", "empty.yaml"], "empty.yaml is empty"),
        (["align", "broken.yaml"], "broken.yaml, line 2: not valid YAML"),
        (["demo", "--output", "empty.yaml"], "empty.yaml is a file, not a folder"),
        (["demo", "--output", "."], "already holds other files"),
        (["pairs", "tinyscenes", "--output", "run"], "degraded.jsonl does not exist; make it with `ddspo degrade`"),
        (["train", "tinyscenes", "--output", "run"], "pairs does not exist; make it with `ddspo pairs`"),
        (
            ["train", "tinyscenes", "--baseline", "nobody", "--dry-run", "--set", "model.base=base"],
            "no stage 'baseline nobody'",
        ),
        (["evaluate", "tinyscenes", "--output", "run"], "policy does not exist; make it with `ddspo train`"),
        (["degrade", "tinyscenes", "--output", "run", "--set", "prompts.source=gone.txt"], "gone.txt"),
        (["degrade", "tinyscenes", "--output", "run", "--set", "prompts.source=blank.txt"], "blank.txt"),
        (["report", "base"], "base"),
        (["report", "runs/gone"], "runs/gone does not exist; give the run folder"),
        (["demo", "--output", "run", "--set", "evaluation.prompts=gone.txt"], "evaluation.prompts: gone.txt"),
        (["align", "tinyscenes", "--dry-run", "--set", "model.base=vae_only"], "model.base: "),
        (
            ["align", "tinyscenes", "--dry-run", "--set", "model.base=/no/where"],
            "neither a folder, nor a Hugging Face id",
        ),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments: list[str], expected: str, base: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("", encoding="utf-8")
    (tmp_path / "blank.txt").write_text("\n\n", encoding="utf-8")
    (tmp_path / "broken.yaml").write_text("seed: 1\ntraining: {a: b: c}\n", encoding="utf-8")
    (tmp_path / "vae_only" / "vae").mkdir(parents=True)
    assert expected in told(ddspo(*arguments, cwd=tmp_path))


def test_degrade_writes_into_the_run_folder_and_refuses_another_run(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red cat on a blue mat\na dog in the rain near a house\n", encoding="utf-8")
    options = [
        "--set",
        f"prompts.source={prompts}",
        "--set",
        "prompts.limit=null",
        "--set",
        "degradation.method=removal",
    ]
    first = ddspo("degrade", "tinyscenes", "--output", tmp_path / "run", *options)
    assert first.returncode == 0, first.stderr
    made = (tmp_path / "run" / "degraded.jsonl").read_bytes()
    assert len(made.splitlines()) == 2
    for name in ("recipe.yaml", "environment.json", "settings.json", "degraded.cost.json"):
        assert (tmp_path / "run" / name).is_file()
    cost = (tmp_path / "run" / "degraded.cost.json").read_bytes()
    again = ddspo("degrade", "tinyscenes", "--output", tmp_path / "run", *options)
    assert again.stdout == first.stdout
    assert (tmp_path / "run" / "degraded.cost.json").read_bytes() == cost, "nothing was done, so nothing was spent"
    other = ddspo("degrade", "tinyscenes", "--output", tmp_path / "run", *options, "--set", "seed=7")
    assert "seed: 0 there, 7 now" in told(other)
    assert (tmp_path / "run" / "degraded.jsonl").read_bytes() == made


def test_stages_of_one_process_refuse_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    result = ddspo("demo", "--output", tmp_path / "run")
    assert "use torchrun for `ddspo degrade`, `pairs` and `train` only" in told(result)
    assert not (tmp_path / "run").exists()
