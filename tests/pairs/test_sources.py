"""What an import reads: who won, what is left out and why, and that no table reads files it should not."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pytest
import torch
from safetensors.torch import save_file

from ddspo.errors import UserError
from ddspo.pairs.source_open import open_source
from ddspo.pairs.source_parquet import _parts
from ddspo.pairs.sources import Example, Skip, Source, first_rows
from helpers.preference_sets import encoded, picture, row, write_parquet


def everything(source: Source) -> list[Example | Skip]:
    return [entry for part in source.parts for entry in source.read(part)]


def opened(name: Path | str, rows_per_part: int = 4, **options: Any) -> Source:
    return open_source(str(name), rows_per_part, channels=4, **options)


def refused(name: Path | str, match: str, **options: Any) -> None:
    with pytest.raises(UserError, match=match) as caught:
        everything(opened(name, **options))
    assert "\n" not in str(caught.value)


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


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_tables_name_files_beside_them(tmp_path: Path, kind: str) -> None:
    rows = [{"chosen": "a/1.png", "rejected": "2.png", "caption": "a cat", "degraded_prompt": "cat"}]
    rows.append(rows[0] | {"caption": ""})
    rows.append(rows[0] | {"chosen": ""})
    entry, *skips = everything(opened(write_table(tmp_path / f"pairs.{kind}", rows)))
    assert isinstance(entry, Example)
    assert (entry.win, entry.lose) == (tmp_path.resolve() / "a" / "1.png", tmp_path.resolve() / "2.png")
    assert (entry.prompt, entry.degraded_prompt) == ("a cat", "cat")
    assert [skip.reason for skip in skips if isinstance(skip, Skip)] == ["no caption", "missing picture"]


def test_tables_do_not_lead_out_of_their_folder(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    picture(0).save(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    for name in ("../secret.png", str(tmp_path / "secret.png"), "link.png"):
        path = write_table(folder / "pairs.csv", [{"chosen": name, "rejected": name, "caption": "a"}])
        refused(path, "pairs.csv, line 2: .* lies outside")
        (entry,) = everything(opened(path, allow_outside=True))
        assert isinstance(entry, Example) and entry.win == (tmp_path / "secret.png").resolve()


def test_tables_without_a_column_or_rows_are_refused(tmp_path: Path) -> None:
    refused(write_table(tmp_path / "a.csv", [{"chosen": "x", "caption": "a"}]), "a.csv, line 1: no column rejected")
    refused(write_table(tmp_path / "b.jsonl", [{"chosen": "x", "rejected": "y"}]), "row 1: no column caption")
    (tmp_path / "c.csv").write_text("chosen,rejected,caption\n")
    refused(tmp_path / "c.csv", "holds no rows")
    (tmp_path / "d.csv").write_bytes(b"chosen,rejected,caption\n\xff\xfe,b,c\n")
    refused(tmp_path / "d.csv", "not valid CSV in UTF-8")


def test_a_folder_of_chosen_and_rejected(tmp_path: Path) -> None:
    for side in ("chosen", "rejected"):
        (tmp_path / side).mkdir()
        picture(0).save(tmp_path / side / "one.png")
    picture(0).save(tmp_path / "chosen" / "two.png")
    picture(0).save(tmp_path / "chosen" / "three.jpg")
    picture(0).save(tmp_path / "rejected" / "three.webp")
    (tmp_path / "one.txt").write_text("a cat\n")
    entries = {entry.where: entry for entry in everything(opened(tmp_path))}
    one = entries["chosen/one"]
    assert isinstance(one, Example) and one.prompt == "a cat"
    assert (one.win, one.lose) == tuple(tmp_path.resolve() / side / "one.png" for side in ("chosen", "rejected"))
    assert entries["rejected/two"] == Skip("missing picture", "rejected/two")
    assert entries["three.txt"] == Skip("no caption", "three.txt")


def test_a_corrected_caption_makes_another_source(tmp_path: Path) -> None:
    for side in ("chosen", "rejected"):
        (tmp_path / side).mkdir()
        picture(0).save(tmp_path / side / "one.png")
    (tmp_path / "captions").mkdir()
    caption = tmp_path / "captions" / "one.txt"
    caption.write_text("a cat")
    before = opened(tmp_path).description
    caption.touch()
    assert opened(tmp_path).description == before
    caption.write_text("a dog")
    after = opened(tmp_path).description
    assert {key for key in after if after[key] != before[key]} == {"captions"}
    caption.unlink()
    assert opened(tmp_path).description["captions"] not in (before["captions"], after["captions"])


def write_latents(folder: Path, rows: list[dict[str, Any]], **files: torch.Tensor) -> Path:
    (folder / "latents").mkdir(parents=True, exist_ok=True)
    for name, latent in files.items():
        save_file({"latent": latent}, folder / "latents" / f"{name}.safetensors")
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def latent_row(win: str, lose: str, prompt: str = "a cat", degraded: str = "cat") -> dict[str, str]:
    return {"id": win, "prompt": prompt, "neg_prompt": degraded, "pos_file": win, "neg_file": lose}


def test_latents_of_the_published_code(tmp_path: Path) -> None:
    win, lose = torch.randn(4, 8, 8).half(), torch.randn(1, 4, 8, 8).half()
    bad = torch.full((4, 8, 8), torch.nan)
    files = {"1": win, "1_neg": lose, "2": win, "2_neg": lose, "3": bad, "4": torch.randn(4, 8, 16).half()}
    rows = [
        latent_row("1.safetensors", "1_neg.safetensors"),
        latent_row("2.safetensors", "2_neg.safetensors", "a dog"),
        latent_row("2.safetensors", "2_neg.safetensors", "a bird"),  # ids that restart: which prompt drew it?
        latent_row("3.safetensors", "1_neg.safetensors"),
        latent_row("4.safetensors", "1_neg.safetensors"),
        latent_row("9.safetensors", "1_neg.safetensors"),
        latent_row("5.npy", "6.npy", "a fish", ""),
    ]
    folder = write_latents(tmp_path, rows, **files)
    for name in ("5.npy", "6.npy"):
        np.save(folder / "latents" / name, win.numpy())
    entries = everything(opened(folder))
    first, last = entries[0], entries[-1]
    assert isinstance(first, Example) and isinstance(last, Example)
    assert isinstance(first.win, torch.Tensor) and isinstance(first.lose, torch.Tensor)
    assert torch.equal(first.win, win) and torch.equal(first.lose, lose[0])
    assert (first.prompt, first.degraded_prompt, last.degraded_prompt) == ("a cat", "cat", None)
    assert [entry.reason for entry in entries if isinstance(entry, Skip)] == [
        "file of several prompts",
        "file of several prompts",
        "broken latent",
        "broken latent",
        "missing picture",
    ]


def test_nothing_pickled_is_read(tmp_path: Path) -> None:
    folder = write_latents(tmp_path, [latent_row("1.pt", "1_neg.pt")])
    refused(folder, "1.pt is a pickle, which is never loaded; .*save_file")
    np.save(folder / "latents" / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    write_latents(tmp_path, [latent_row("o.npy", "p.npy")])
    (folder / "latents" / "p.npy").write_bytes((folder / "latents" / "o.npy").read_bytes())
    assert [entry.reason for entry in everything(opened(folder)) if isinstance(entry, Skip)] == ["broken latent"]


def test_latents_of_other_models_and_paths_outside_are_refused(tmp_path: Path) -> None:
    folder = write_latents(tmp_path, [latent_row("1.safetensors", "2.safetensors")], **{"1": torch.randn(16, 8, 8)})
    refused(folder, r"shape \(16, 8, 8\); the model of the recipe has \(4,")
    refused(write_latents(tmp_path, [latent_row("../x.safetensors", "1.safetensors")]), "row 1: .* lies outside")
    refused(write_latents(tmp_path, [{"id": "1", "prompt": "a"}]), "no field 'pos_file'")
    refused(write_latents(tmp_path, []), "holds no rows")
