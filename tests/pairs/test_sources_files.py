"""Tables, folders and latents: who won, and no file is read that should not be."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ddspo.pairs.sources import Example, Skip
from helpers.import_cases import everything, opened, refused
from helpers.preference_sets import picture


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
