"""Stored rows are made once, resumed, extended, shared, and refused where they misfit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ddspo.errors import UserError
from ddspo.families.load import load_family
from ddspo.families.roles import Roles
from ddspo.training import reference_rows as module
from ddspo.training.loop import train
from ddspo.training.reference_rows import make_reference_rows
from helpers.stored_rows import on_rows, shards
from helpers.training_cases import changed, make_case, policy_bytes


def test_making_leaves_the_family_as_it_was_and_training_makes_nothing_more(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder)
    family = load_family(recipe.model.base)
    before = {name: tensor.clone() for name, tensor in family.denoiser.state_dict().items()}
    cost = make_reference_rows(recipe, pairs, tmp_path / "rows", family=family)
    assert cost["network_evaluations"] == 4 * 4 * 3
    after = family.denoiser.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    made = shards(tmp_path / "rows")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "rows").glob("step-*")}
    train(on_rows(recipe, tmp_path / "rows"), pairs, tmp_path / "run")
    assert shards(tmp_path / "rows") == made
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "rows").glob("step-*")} == times


def test_a_longer_run_adds_steps_and_a_shorter_one_adds_none(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder)
    make_reference_rows(changed(recipe, training={"max_steps": 2}), pairs, tmp_path / "rows")
    first = shards(tmp_path / "rows")
    assert len(first) == 2
    longer = make_reference_rows(recipe, pairs, tmp_path / "rows")
    assert longer["network_evaluations"] == 4 * 4 * 3
    assert len(shards(tmp_path / "rows")) == 4
    assert first.items() <= shards(tmp_path / "rows").items()
    shorter = on_rows(recipe, tmp_path / "rows", max_steps=1)
    assert train(shorter, pairs, tmp_path / "run").cost["network_evaluations"] == 4 * 6
    assert make_reference_rows(recipe, pairs, tmp_path / "rows") == longer


@pytest.mark.parametrize("stop_at", [1, 3, 6])
def test_an_interruption_changes_no_bit_and_is_not_paid_twice(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    recipe, pairs = make_case(folder)
    make_reference_rows(recipe, pairs, tmp_path / "unbroken")
    predict, calls = Roles.predict, []

    def dying(self: Roles, *arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return predict(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Roles, "predict", dying)
        with pytest.raises(KeyboardInterrupt):
            make_reference_rows(recipe, pairs, tmp_path / "rows")
    assert len(shards(tmp_path / "rows")) == (stop_at - 1) // 2  # two micro batches a step
    cost = make_reference_rows(recipe, pairs, tmp_path / "rows")
    assert shards(tmp_path / "rows") == shards(tmp_path / "unbroken")
    assert cost["network_evaluations"] == 4 * 4 * 3


def test_an_interruption_after_the_last_shard_leaves_a_cost_to_tell(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder)
    cost = make_reference_rows(recipe, pairs, tmp_path / "rows")
    (tmp_path / "rows" / "cost.json").unlink()
    assert make_reference_rows(recipe, pairs, tmp_path / "rows") == cost


def test_a_torn_shard_is_made_again(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder, max_steps=2)
    make_reference_rows(recipe, pairs, tmp_path / "rows")
    whole = shards(tmp_path / "rows")
    path = tmp_path / "rows" / "step-000001-000.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    make_reference_rows(recipe, pairs, tmp_path / "rows")
    assert shards(tmp_path / "rows") == whole


def test_large_steps_are_cut_into_several_shards(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, pairs = make_case(folder, max_steps=2, micro_batch_pairs=1)
    train(recipe, pairs, tmp_path / "plain")
    monkeypatch.setattr(module, "SHARD_BYTES", 2 * 3 * 4 * 8 * 8 * 4)
    train(on_rows(recipe, tmp_path / "rows"), pairs, tmp_path / "stored")
    names = [f"step-00000{step}-00{shard}.safetensors" for step in range(2) for shard in range(2)]
    assert list(shards(tmp_path / "rows")) == names
    assert policy_bytes(tmp_path / "stored") == policy_bytes(tmp_path / "plain")


def test_resuming_a_run_needs_rows_of_the_remaining_steps_only(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, pairs = make_case(folder)
    train(recipe, pairs, tmp_path / "plain")
    stored = on_rows(recipe, tmp_path / "rows")
    train(stored, pairs, tmp_path / "stored")
    shutil.rmtree(tmp_path / "stored" / "policy")
    shutil.rmtree(tmp_path / "stored" / "checkpoints" / "step-000004")
    shutil.rmtree(tmp_path / "rows")
    train(stored, pairs, tmp_path / "stored")
    assert policy_bytes(tmp_path / "stored") == policy_bytes(tmp_path / "plain")
    assert sorted(shards(tmp_path / "rows")) == ["step-000002-000.safetensors", "step-000003-000.safetensors"]


def test_other_rows_are_refused_with_the_difference(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder, max_steps=1)
    make_reference_rows(recipe, pairs, tmp_path / "rows")
    before = shards(tmp_path / "rows")
    for sections, message in (
        ({"seed": 4}, "seed: 3 there, 4 now"),
        ({"target": {"source": "forward_noise"}}, r"target\.source: 'training_free' there, 'forward_noise' now"),
        ({"training": {"micro_batch_pairs": 4}}, "micro_batch_pairs: 2 there, 4 now"),
        ({"training": {"timesteps": {"high": 0.5}}}, r"timesteps\.high: 1\.0 there, 0\.5 now"),
        ({"training": {"parameters": "full"}}, "parameters: 'lora' there, 'full' now"),
        ({"training": {"mixed_precision": "bf16"}}, "mixed_precision: 'no' there, 'bf16' now"),
    ):
        with pytest.raises(UserError, match=f"holds reference rows made with other settings .*{message}"):
            make_reference_rows(changed(recipe, **sections), pairs, tmp_path / "rows")
    for sections in ({"objective": {"beta": 7.0}}, {"training": {"timesteps": {"weight": "linear"}}}):
        make_reference_rows(changed(recipe, **sections), pairs, tmp_path / "rows")
    assert shards(tmp_path / "rows") == before


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"name": "denoising"}, "objective 'denoising' asks the reference nothing that could be stored"),
        ({"reference": {"every_steps": 1}}, r"stores what a frozen reference says"),
    ],
)
def test_what_rows_cannot_serve_is_refused(
    folder: Path, tmp_path: Path, objective: dict[str, Any], message: str
) -> None:
    recipe, pairs = make_case(folder, max_steps=1)
    with pytest.raises(UserError, match=message):
        make_reference_rows(changed(recipe, objective=objective), pairs, tmp_path / "rows")
    with pytest.raises(ValidationError, match=message):
        changed(recipe, objective=objective, training={"reference_rows": tmp_path / "rows"})
    assert not (tmp_path / "rows").exists() or not list((tmp_path / "rows").glob("step-*"))


def test_size_is_told_and_checked_before_anything_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, pairs = make_case(folder, max_steps=3)
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("ddspo.files.shutil.disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(UserError, match="the rest of the reference rows needs .* GB are free"):
            make_reference_rows(recipe, pairs, tmp_path / "rows")
    assert not list((tmp_path / "rows").glob("step-*"))
    make_reference_rows(recipe, pairs, tmp_path / "rows")
    told = capsys.readouterr().err
    assert f"3 steps x 4 pairs x 3 rows, 0.000 GB in {tmp_path / 'rows'}; 3 steps to make" in told


SCRIPT = """
import sys
from pathlib import Path
from ddspo.recipe import Recipe
from ddspo.training.loop import train

recipe, pairs, output = sys.argv[1:]
train(Recipe.model_validate_json(Path(recipe).read_text()), Path(pairs), Path(output))
"""


@pytest.mark.slow
def test_two_processes_make_what_one_makes(folder: Path, tmp_path: Path) -> None:
    recipe, pairs = make_case(folder)
    make_reference_rows(recipe, pairs, tmp_path / "one")
    (tmp_path / "recipe.json").write_text(on_rows(recipe, tmp_path / "two").model_dump_json())
    (tmp_path / "run.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launched = subprocess.run(
        [*command, *map(str, (tmp_path / "run.py", tmp_path / "recipe.json", pairs, tmp_path / "run"))],
        env={**os.environ, "ACCELERATE_USE_CPU": "1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert launched.returncode == 0, launched.stderr[-3000:]
    assert shards(tmp_path / "two") == shards(tmp_path / "one")
    assert launched.stderr.count("4 steps to make") == 1
    assert json.loads((tmp_path / "run" / "cost.json").read_text())["network_evaluations"] == 4 * 4 * 6
