"""Files that are whole or absent, and what is said when they cannot be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ddspo.errors import UserError
from ddspo.families.policy import atomic_folder
from ddspo.files import append_jsonl, atomic_path, claim_folder, read_jsonl, require_free_space, write_json


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
