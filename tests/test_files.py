"""Files that are whole or absent, and what is said when they cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddspo.errors import UserError
from ddspo.families.policy import atomic_folder
from ddspo.files import atomic_path, claim_folder, read_jsonl, write_json


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
