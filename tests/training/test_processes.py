"""What only several real processes show: killed at any moment, or sharing one run."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ddspo.recipe import Recipe
from ddspo.training.checkpoint import latest_checkpoint
from ddspo.training.loop import train
from helpers.training_cases import changed, make_case, metrics_of, policy_bytes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

Train = Callable[[Recipe, Path, Path], object]
SCRIPT = """
import sys
from pathlib import Path
from ddspo.recipe import Recipe
from ddspo.training.loop import train

recipe = Recipe.model_validate_json(Path(sys.argv[1]).read_text())
train(recipe, Path(sys.argv[2]), Path(sys.argv[3]))
"""
ENVIRONMENT = os.environ | {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "ACCELERATE_USE_CPU": "1",
    "PYTHONPATH": str(Path(__file__).parents[2] / "src"),
}


def start(folder: Path, recipe: Recipe, pairs: Path, output: Path, processes: int = 1) -> subprocess.Popen[bytes]:
    script, settings = folder / "script.py", folder / f"{output.name}.json"
    script.write_text(SCRIPT)
    settings.write_text(recipe.model_dump_json())
    launcher = [sys.executable]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        address = [f"--master-port={port}", "--master-addr=127.0.0.1"]
        launcher += ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", *address]
    command = [*launcher, str(script), str(settings), str(pairs), str(output)]
    with (folder / f"{output.name}.log").open("ab") as log:
        return subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log)


def wait(process: subprocess.Popen[bytes], log: Path) -> None:
    try:
        assert process.wait(timeout=240) == 0, log.read_text()[-3000:]
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def train_here(monkeypatch: pytest.MonkeyPatch) -> Train:
    """Train in this process as `start` does in one of its own."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    return train


def rows_written(output: Path) -> int:
    path = output / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_killed_at_random_moments_the_policy_is_bit_identical(tmp_path: Path, train_here: Train) -> None:
    recipe, pairs = make_case(tmp_path, max_steps=6, global_batch_pairs=2, checkpoint_every_steps=1, ema_decay=0.9)
    train_here(recipe, pairs, tmp_path / "unbroken")

    chance, output = random.Random(0), tmp_path / "killed"
    for _ in range(2):
        process, before = start(tmp_path, recipe, pairs, output), rows_written(output)
        deadline = time.monotonic() + 120
        while rows_written(output) in (0, before) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)  # until this attempt has made a step (its start cuts rows off, then adds some)
        time.sleep(chance.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (output / "policy").exists() or rows_written(output) == 6
    train_here(recipe, pairs, output)

    assert policy_bytes(output) == policy_bytes(tmp_path / "unbroken") != {}
    assert metrics_of(output) == metrics_of(tmp_path / "unbroken")


@pytest.mark.parametrize("parameters", ["lora", "full"])
def test_two_processes_train_what_one_trains(tmp_path: Path, parameters: str, train_here: Train) -> None:
    recipe, pairs = make_case(
        tmp_path, parameters=parameters, global_batch_pairs=6, micro_batch_pairs=2, max_steps=2, ema_decay=0.5,
        optimizer={"learning_rate": 1e-4, "adam_epsilon": 1e-4},
    )  # fmt: skip
    train_here(recipe, pairs, tmp_path / "one")
    wait(start(tmp_path, recipe, pairs, tmp_path / "two", 2), tmp_path / "two.log")
    one, two = (latest_checkpoint(tmp_path / name / "checkpoints") for name in ("one", "two"))
    assert one is not None
    assert two is not None
    for group in ("trained", "average"):
        for name, tensor in one.tensors[group].items():
            close = 3e-6  # of steps of 1e-4: gradients are added up in another order
            torch.testing.assert_close(two.tensors[group][name], tensor, rtol=0, atol=close, msg=name)
    for left, right in zip(metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two"), strict=True):
        assert left["loss"] == pytest.approx(right["loss"], abs=1e-6)
        assert left["gradient_norm"] == pytest.approx(right["gradient_norm"], rel=1e-4)
        assert left["network_evaluations"] == right["network_evaluations"]
        counts = [[value is None for value in row["margin_by_timestep"]] for row in (left, right)]
        assert counts[0] == counts[1]


def test_two_processes_choose_one_beta_and_hold_drift_alike(tmp_path: Path, train_here: Train) -> None:
    made, pairs = make_case(
        tmp_path, global_batch_pairs=6, micro_batch_pairs=2, max_steps=4,
        optimizer={"learning_rate": 1e-3, "adam_epsilon": 1e-4},
    )  # fmt: skip
    auto = {"pairs": 7, "hold_drift": 1e-3, "stop_drift": None}
    recipe = changed(made, objective={"beta": "auto", "auto": auto})
    train_here(recipe, pairs, tmp_path / "one")
    wait(start(tmp_path, recipe, pairs, tmp_path / "two", 2), tmp_path / "two.log")
    assert (tmp_path / "one" / "beta.json").read_bytes() == (tmp_path / "two" / "beta.json").read_bytes()
    for left, right in zip(metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two"), strict=True):
        assert left["beta"] == right["beta"]
        assert left["drift_price"] == pytest.approx(right["drift_price"], rel=1e-3)
        assert left["network_evaluations"] == right["network_evaluations"]
    assert metrics_of(tmp_path / "two")[-1]["drift_price"] > 0
