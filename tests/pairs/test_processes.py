"""Pairs made by several processes are those that one process makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ddspo.files import read_json
from ddspo.pairs.build import build_pairs
from ddspo.pairs.store import PairStore
from ddspo.processes import Process, local_device, this_process
from ddspo.recipe import Model, Pairs, Recipe, Sampling
from helpers.tiny_pipelines import tiny_sd

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


@pytest.mark.slow
def test_two_processes_make_the_same_bits_as_one(tmp_path: Path) -> None:
    base = tiny_sd(tmp_path / "base", scheduler="ddim")
    rows = [
        {"id": f"{n}", "prompt": f"a cat {n}", "degraded_prompts": ["a"], "how": [{"kind": "drop", "change": "x"}]}
        for n in range(7)
    ]
    degraded = tmp_path / "degraded.jsonl"
    degraded.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sampling = Sampling(steps=2, guidance_scale=3.0, batch_images=4)
    recipe = Recipe(model=Model(base=str(base)), pairs=Pairs(pairs_per_shard=2, sampling=sampling))
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
    assert launched.stdout.split() == ["7", "56.0"] * 2  # each process returns when all pairs are there
    assert launched.stderr.count("7 in 4 shards") == 1  # only the main process speaks
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(one[name] == two[name] for name in one if "cost" not in name)
    assert read_json(tmp_path / "two" / "cost.json")["network_evaluations"] == 7 * 2 * 4
    assert len(PairStore(tmp_path / "two")) == 7
