"""Pairs made by several processes are those that one process makes."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ddspo.errors import UserError
from ddspo.files import read_json
from ddspo.pairs import build
from ddspo.pairs.build import build_pairs
from ddspo.pairs.store import PairStore
from ddspo.processes import Process, local_device, this_process
from ddspo.recipe import Model
from helpers.pair_making import STEPS, contents, small_recipe

SCRIPT = """
import sys
from pathlib import Path
from ddspo.pairs.build import build_pairs
from ddspo.pairs.store import PairStore
from ddspo.recipe import Recipe

recipe, degraded, output = sys.argv[1:]
summary = build_pairs(Recipe.model_validate_json(Path(recipe).read_text()), Path(degraded), Path(output))
print(len(PairStore(Path(output))), summary.network_evaluations)
"""


def test_shares_cover_everything_once() -> None:
    shares = [Process(rank, 3).share(8) for rank in range(3)]
    assert [list(share) for share in shares] == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert [Process(rank, 3).is_main for rank in range(3)] == [True, False, False]


def test_process_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert this_process() == Process(0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert this_process() == Process(2, 4)


def test_the_cpu_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    assert local_device() == torch.device("cpu")


def make_share(rank: int, *arguments: Any, **options: Any) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="3")
    build_pairs(*arguments, **options)


def test_shares_started_by_hand_meet_in_one_folder(tmp_path: Path, family: Any, degraded: Path) -> None:
    recipe, context = small_recipe(count=9), multiprocessing.get_context("fork")
    build_pairs(recipe, degraded, tmp_path / "one", family=family)
    arguments, options = (recipe, degraded, tmp_path / "three"), {"family": family}
    children = [context.Process(target=make_share, args=(rank, *arguments), kwargs=options) for rank in (2, 1, 0)]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=60)
        assert child.exitcode == 0
    assert contents(tmp_path / "three") == contents(tmp_path / "one")
    assert read_json(tmp_path / "three" / "cost.json")["network_evaluations"] == 9 * STEPS * 4


def test_a_process_started_with_other_settings_is_refused(
    tmp_path: Path, family: Any, degraded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_pairs(small_recipe(), degraded, tmp_path / "pairs", family=family)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(build, "_CLAIM_PATIENCE_SECONDS", 0.0)
    with pytest.raises(UserError, match=r"sampling\.steps: 3 there, 5 now"):
        build_pairs(small_recipe(steps=5), degraded, tmp_path / "pairs", family=family)


@pytest.mark.slow
def test_torchrun_makes_the_same_bits_as_one_process(tmp_path: Path, base: Path, degraded: Path) -> None:
    recipe = small_recipe(count=7).model_copy(update={"model": Model(base=str(base))})
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    (tmp_path / "make.py").write_text(SCRIPT)

    build_pairs(recipe, degraded, tmp_path / "one")
    launched = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *(str(tmp_path / name) for name in ("make.py", "recipe.json", "degraded.jsonl", "two")),
        ],
        env={**os.environ, "ACCELERATE_USE_CPU": "1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert launched.returncode == 0, launched.stderr[-3000:]
    assert launched.stdout.split() == ["7", "84.0"] * 2  # each process returns when all pairs are there
    assert launched.stderr.count("7 in 4 shards") == 1  # only the main process speaks
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert read_json(tmp_path / "two" / "cost.json")["network_evaluations"] == 7 * STEPS * 4
    assert len(PairStore(tmp_path / "two")) == 7
