"""Parquet files, here or on a hub: who won, what is left out and why, and what is no preference set."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pytest

from ddspo.pairs.source_parquet import _parts
from ddspo.pairs.sources import Example, Skip, first_rows
from helpers.import_cases import everything, opened, refused
from helpers.preference_sets import encoded, picture, row, write_parquet


@pytest.mark.parametrize("groups", [[4, 4, 4], [1] * 9, [10], [0, 3, 25, 2, 0, 7], [6, 7]])
def test_parts_hold_every_row_once(groups: list[int]) -> None:
    rows: list[tuple[int, int]] = []
    for part in _parts(0, groups, 4):
        held = [(group, number) for group in part.groups for number in range(groups[group])]
        rows += held[part.skip : part.skip + part.take]
        assert 0 < part.take <= 4 + 4
    assert rows == [(group, number) for group, count in enumerate(groups) for number in range(count)]


def test_the_label_says_who_won_and_what_is_no_preference_is_counted(tmp_path: Path) -> None:
    rows = [
        row(0, label=1),
        row(1, label=0),
        row(2, label=0.5),
        row(3, are_different=False),
        row(4, label=None),
        row(5, caption=None),
        row(6, caption="  \n "),
        row(7, jpg_0=None),
        row(8, jpg_1=b""),
        row(9, label=0.3),
    ]
    entries = everything(opened(write_parquet(tmp_path / "set.parquet", rows)))
    first, second, *skips = entries
    assert isinstance(first, Example) and isinstance(second, Example)
    assert (first.win, first.lose, first.prompt) == (rows[0]["jpg_0"], rows[0]["jpg_1"], "a cat 0")
    assert (second.win, second.lose) == (rows[1]["jpg_1"], rows[1]["jpg_0"])
    reasons = ["tie", "tie", "no label", "no caption", "no caption", "missing picture", "missing picture", "no label"]
    assert [skip.reason for skip in skips if isinstance(skip, Skip)] == reasons
    assert [skip.where for skip in skips] == [f"set.parquet, row {n}" for n in range(3, 11)]


def test_structs_of_bytes_and_chosen_rejected_columns_are_read(tmp_path: Path) -> None:
    struct = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    data = encoded(picture(0)), encoded(picture(1))
    cells = [{"bytes": data[side], "path": f"{side}.png"} for side in (0, 1)]
    rows = [{"chosen": cells[0], "rejected": cells[1], "prompt": "a cat"}]
    path = write_parquet(tmp_path / "set.parquet", rows, chosen=struct, rejected=struct)
    (entry,) = everything(opened(path))
    assert isinstance(entry, Example) and (entry.win, entry.lose, entry.prompt) == (*data, "a cat")


def test_folders_patterns_and_limits_of_parquet(tmp_path: Path) -> None:
    for number in range(3):
        rows = [row(10 * number + n) for n in range(3)]
        write_parquet(tmp_path / "data" / f"{'train' if number else 'test'}-{number}.parquet", rows)
    assert len(everything(opened(tmp_path))) == 9
    assert len(everything(opened(tmp_path, files="data/train-*.parquet"))) == 6
    assert len(everything(opened(tmp_path / "data" / "train-*.parquet"))) == 6
    source = opened(tmp_path)
    few = [entry for part in first_rows(source.parts, 4) for entry in source.read(part)]
    assert [entry.prompt for entry in few if isinstance(entry, Example)] == [f"a cat {n}" for n in (0, 1, 2, 10)]


def test_what_is_no_preference_set_is_refused_in_one_line(tmp_path: Path) -> None:
    refused(write_parquet(tmp_path / "empty.parquet", []), "holds no rows")
    refused(write_parquet(tmp_path / "other.parquet", [{"jpg_0": b"", "caption": "a"}]), "lacks columns.*found: jpg_0")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    refused(tmp_path / "torn.parquet", "torn.parquet is not a readable parquet file")
    refused(tmp_path / "nowhere.csv", "does not exist; give")
    (tmp_path / "notes.txt").write_text("a cat")
    refused(tmp_path / "notes.txt", "no preference set")
    (tmp_path / "bare").mkdir()
    refused(tmp_path / "bare", "holds no preference set")


def test_a_data_set_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused("nobody/no-such-set", "data set nobody/no-such-set is neither here nor within reach")


class Hub:
    """A hub with one data set in a local folder; `broken` files end in the middle of reading."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.broken = folder, False

    def dataset_info(self, name: str) -> Any:
        return type("Info", (), {"sha": "abc123"})

    def glob(self, pattern: str) -> list[str]:
        root, _, inner = pattern.partition("@abc123/")
        assert root == "datasets/people/choices"
        return [f"{root}@abc123/{path.relative_to(self.folder)}" for path in self.folder.glob(inner)]

    def open(self, path: str, mode: str) -> Any:
        file = (self.folder / path.partition("@abc123/")[2]).open(mode)
        return Torn(file) if self.broken else file


class Torn(io.BufferedIOBase):
    """A connection that ends after the file's footer was read."""

    def __init__(self, file: Any) -> None:
        self.file, self.size = file, file.seek(0, 2)

    def read(self, size: int = -1) -> bytes:
        if self.file.tell() < self.size // 2 and size > 8:
            raise ConnectionError("the hub hung up\nand more")
        return bytes(self.file.read(size))

    def seek(self, *place: int) -> int:
        return int(self.file.seek(*place))

    def tell(self) -> int:
        return int(self.file.tell())

    def close(self) -> None:
        self.file.close()
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def test_a_hub_data_set_is_read_at_one_commit_file_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    hub = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "HfFileSystem", lambda: hub)
    for name in ("train-0", "train-1", "test-0"):
        write_parquet(tmp_path / "data" / f"{name}.parquet", [row(n) for n in range(3)])
    source = opened("people/choices", files="data/train-*.parquet")
    assert len(everything(source)) == 6
    assert source.description["commit"] == "abc123" and source.description["dataset"] == "people/choices"
    refused("people/choices", "has no files data/valid", files="data/valid*")
    hub.broken = True
    refused("people/choices", "the hub hung up.; get it anew, or try again")
