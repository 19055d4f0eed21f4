"""Files that are whole or absent, and what is said when they cannot be."""

from __future__ import annotations

import errno
import multiprocessing
import multiprocessing.synchronize
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ddspo import folder_lock
from ddspo.errors import UserError
from ddspo.families.policy import atomic_folder
from ddspo.files import append_jsonl, atomic_path, claim_folder, read_jsonl, require_free_space, write_json
from ddspo.folder_lock import LOCK, only_one


def test_a_file_in_the_place_of_a_folder_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(UserError, match="is a file, not a folder"):
        claim_folder(tmp_path / "taken", {}, "pairs")
    with pytest.raises(UserError, match="is a file, not a folder"), atomic_folder(tmp_path / "taken"):
        pass
    with pytest.raises(UserError, match="cannot make .*taken"):
        write_json(tmp_path / "taken" / "settings.json", {})
    assert (tmp_path / "taken").read_text() == "mine"


def test_an_error_inside_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("old")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a.json") as partial:
        partial.write_text("new")
        raise RuntimeError
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.json", "old")]


def test_rows_that_are_not_utf_8_are_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": 1}\n{"a": "caf\xe9"}\n')
    with pytest.raises(UserError, match="not UTF-8"):
        list(read_jsonl(tmp_path / "rows.jsonl"))


def test_space_needed_and_space_free_can_be_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("ddspo.files.shutil.disk_usage", lambda _: usage._replace(free=5_600_000))
    with pytest.raises(UserError, match=r"training needs 0\.00573 GB in .*/not/there and only 0\.0056 GB are free"):
        require_free_space(tmp_path / "not" / "there", 5_730_000, "training")
    require_free_space(tmp_path, 5_600_000, "training")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's always full device")
def test_a_row_that_finds_no_room_is_told_in_one_line() -> None:
    with pytest.raises(UserError, match="cannot write /dev/full: No space left on device"):
        append_jsonl(Path("/dev/full"), {"step": 1})


@pytest.mark.parametrize(
    ("code", "mend"),
    [
        (errno.ENOSPC, "; free some space or choose another folder"),
        (errno.EROFS, "; allow writing there or choose another folder"),
        (errno.EACCES, "; allow writing there or choose another folder"),
        (errno.EIO, "error; choose another folder"),
    ],
)
def test_the_mend_fits_what_is_wrong(tmp_path: Path, code: int, mend: str) -> None:
    with pytest.raises(UserError) as caught, atomic_path(tmp_path / "a.json"):
        raise OSError(code, os.strerror(code))
    assert str(caught.value).startswith(f"cannot write {tmp_path / 'a.json'}: ") and str(caught.value).endswith(mend)


needs_locks = pytest.mark.skipif(folder_lock.fcntl is None, reason="no advisory locks here")


def hold(folder: Path, held: multiprocessing.synchronize.Event) -> None:
    with only_one(folder, "ddspo pairs"):
        (folder / "shard").touch()
        held.set()
        time.sleep(60)


@needs_locks
def test_the_second_command_is_refused_until_the_first_is_gone_even_by_a_kill(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held = context.Event()
    first = context.Process(target=hold, args=(tmp_path / "pairs", held))
    first.start()
    try:
        assert held.wait(20)
        with pytest.raises(UserError) as caught, only_one(tmp_path / "pairs", "ddspo pairs"):
            pass
        told = str(caught.value)
        assert told.startswith(f"{tmp_path / 'pairs'} is in use: `ddspo pairs` is already at work there (process ")
        assert f"(process {first.pid} on " in told and "\n" not in told and told.endswith("run this command again")
        with only_one(tmp_path / "pairs", "ddspo pairs", main=False):
            pass  # another process of the same job
    finally:
        first.kill()
        first.join()
    assert (tmp_path / "pairs" / LOCK).exists()
    claim = {"count": 1}
    (tmp_path / "pairs" / "shard").unlink()
    with only_one(tmp_path / "pairs", "ddspo pairs"):
        claim_folder(tmp_path / "pairs", claim, "pairs")  # the lock does not count as other files
    assert [path.name for path in (tmp_path / "pairs").iterdir()] == ["settings.json"]


@needs_locks
def test_a_lock_leaves_nothing_behind_and_takes_nothing_away(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("mine", "new", "taken"):
        (tmp_path / "taken").touch()
        with pytest.raises(RuntimeError), only_one(tmp_path / name, "ddspo train"):
            raise RuntimeError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "taken"]
    assert not list((tmp_path / "mine").iterdir())


@needs_locks
def test_locks_that_come_and_go_let_one_in_at_a_time(tmp_path: Path) -> None:
    """Every ending removes the file and the folder that others are about to lock."""
    inside, most, entered = [0], [0], [0]

    def work() -> None:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            try:
                with only_one(tmp_path / "new", "ddspo train"):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    entered[0] += 1
                    time.sleep(0)
                    inside[0] -= 1
            except UserError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1 and entered[0] > 10
    assert not list(tmp_path.glob("new/*"))


@needs_locks
def test_without_locks_the_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(folder_lock.fcntl, "flock", unsupported)
        with only_one(tmp_path / "a", "ddspo train"), only_one(tmp_path / "a", "ddspo train"):
            pass
    monkeypatch.setattr(folder_lock, "fcntl", None)
    with only_one(tmp_path / "b", "ddspo train"), only_one(tmp_path / "b", "ddspo train"):
        assert not (tmp_path / "b").exists()
