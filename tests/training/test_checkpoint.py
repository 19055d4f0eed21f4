"""Checkpoints are whole or passed over."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from ddspo.errors import UserError
from ddspo.training import checkpoint as module
from ddspo.training.checkpoint import Checkpoint, latest_checkpoint, numbered, remove_leftovers, save_checkpoint


def make(step: int) -> Checkpoint:
    tensors = {"trained": {"a": torch.full((2, 3), float(step))}, "optimizer": {"step.a": torch.tensor(float(step))}}
    return Checkpoint(step, tensors, {"cost": {"seconds": 1.25}, "scaler": None})


def test_round_trip(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "checkpoints", make(50), keep=2)
    assert path.name == "step-000050"
    assert sorted(file.name for file in path.iterdir()) == [
        "optimizer.safetensors",
        "state.json",
        "trained.safetensors",
    ]
    loaded = latest_checkpoint(tmp_path / "checkpoints")
    assert loaded is not None
    assert (loaded.step, loaded.extra) == (50, make(50).extra)
    assert loaded.tensors.keys() == {"trained", "optimizer"}
    assert torch.equal(loaded.tensors["trained"]["a"], torch.full((2, 3), 50.0))
    assert loaded.tensors["optimizer"]["step.a"].shape == ()


def test_no_checkpoint(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "nothing") is None


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (8, 9, 10, 100):
        save_checkpoint(tmp_path, make(step), keep=2)
    assert [path.name for path in numbered(tmp_path)] == ["step-000100", "step-000010"]


def test_a_millionth_step_is_newer_than_the_one_before(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000):
        save_checkpoint(tmp_path, make(step), keep=1)
    assert [path.name for path in numbered(tmp_path)] == ["step-1000000"]


def test_torn_ones_of_later_steps_do_not_crowd_out_whole_ones(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, make(4), keep=2)
    truncate(save_checkpoint(tmp_path, make(8), keep=2) / "trained.safetensors")
    save_checkpoint(tmp_path, make(5), keep=1)  # went on from step 4, and now writes more often
    assert [path.name for path in numbered(tmp_path)] == ["step-000005"]
    loaded = latest_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.step == 5


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 3 // 4])


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: truncate(path / "trained.safetensors"),
        lambda path: truncate(path / "state.json"),
        lambda path: (path / "optimizer.safetensors").unlink(),
        lambda path: (path / "state.json").unlink(),
        lambda path: (path / "state.json").write_text("[]"),
        lambda path: (path / "state.json").write_text('{"format": 1, "step": 2, "files": [], "extra": {}}'),
        lambda path: (path / "trained.safetensors").write_bytes(b"\0" * (path / "trained.safetensors").stat().st_size),
    ],
)
def test_a_torn_one_is_passed_over(tmp_path: Path, damage, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    save_checkpoint(tmp_path, make(1), keep=2)
    damage(save_checkpoint(tmp_path, make(2), keep=2))
    loaded = latest_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.step == 1
    assert "step-000002 is not whole" in capsys.readouterr().err


def test_a_torn_one_is_told_by_the_main_process_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    truncate(save_checkpoint(tmp_path, make(2), keep=2) / "trained.safetensors")
    monkeypatch.setenv("RANK", "1")
    assert latest_checkpoint(tmp_path) is None
    assert capsys.readouterr().err == ""


def test_a_step_can_be_written_again(tmp_path: Path) -> None:
    truncate(save_checkpoint(tmp_path, make(3), keep=2) / "state.json")
    save_checkpoint(tmp_path, make(3), keep=2)
    loaded = latest_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.step == 3


def test_a_failed_write_leaves_the_old_ones_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, make(1), keep=1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(UserError, match="No space left on device.*run the same command again"):
        save_checkpoint(tmp_path, make(2), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


def test_leftovers_of_a_killed_process_go(tmp_path: Path) -> None:
    shutil.copytree(save_checkpoint(tmp_path, make(1), keep=1), tmp_path / ".step-000002.123.partial")
    (tmp_path / ".metrics.jsonl.123.partial").write_text("half")
    assert len(numbered(tmp_path)) == 1
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
