"""Text embeddings on disk: the same rows as in memory, encoded once for all runs, and nothing torn is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ddspo.errors import UserError
from ddspo.families import stored_prompts
from ddspo.families.load import load_family
from ddspo.families.prompt_table import PromptTable
from ddspo.families.stable_diffusion import StableDiffusion
from ddspo.families.stored_prompts import StoredPromptTable, text_fingerprint
from ddspo.tensors import Conditioning
from helpers.tiny_families import tiny_flux, tiny_sdxl
from helpers.tiny_pipelines import tiny_sd

PROMPTS = ["a cat", "a red cat", "", "a blue cat", "a cat", "cat " * 90]


class Counting(StableDiffusion):
    """Notes what it is asked to encode, and stops at a batch."""

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        asked = self.__dict__.setdefault("asked", [])
        if len(asked) == self.__dict__.get("stop_at"):
            raise KeyboardInterrupt
        asked.append(list(prompts))
        return super().encode_prompts(prompts)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("base"))


def counting(base: Path) -> Counting:
    return Counting(load_family(str(base)).folder)


@pytest.mark.parametrize("build", [tiny_sd, tiny_sdxl, tiny_flux])
def test_rows_are_those_of_the_table_in_memory(tmp_path: Path, build: Any) -> None:
    family = load_family(str(build(tmp_path)), dtype="bf16")
    stored = StoredPromptTable(family, PROMPTS, tmp_path / "text", batch=2)
    memory = PromptTable(family, PROMPTS, batch=2)
    wanted = ["a blue cat", "", "a cat", "a blue cat"]
    mine, theirs = stored.lookup(wanted).tensors, memory.lookup(wanted).tensors
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(mine[name], tensor) and mine[name].dtype == tensor.dtype
    assert len(stored) == len(memory) == 5 and "a cat" in stored and "a dog" not in stored


def test_a_later_run_loads_no_text_encoder_and_encodes_only_what_is_new(tmp_path: Path, base: Path) -> None:
    first, again, more = counting(base), counting(base), counting(base)
    before = StoredPromptTable(first, PROMPTS, tmp_path, batch=2).lookup(["a cat"]).tensors["prompt_embeds"]
    assert first.__dict__["asked"] == [["a cat", "a red cat"], ["", "a blue cat"], ["cat " * 90]]
    assert first.loaded() == set()
    table = StoredPromptTable(again, PROMPTS, tmp_path, batch=2)
    assert "asked" not in again.__dict__ and again.loaded() == set()
    assert torch.equal(table.lookup(["a cat"]).tensors["prompt_embeds"], before)
    StoredPromptTable(more, ["a dog", *PROMPTS], tmp_path, batch=1)
    assert more.__dict__["asked"] == [["a dog"]]


def test_every_prompt_has_one_row_whatever_runs_share_the_folder(tmp_path: Path, base: Path) -> None:
    from safetensors import safe_open

    StoredPromptTable(counting(base), ["a cat", "a red cat"], tmp_path, batch=2)
    more = counting(base)
    StoredPromptTable(more, ["a dog", "a cat"], tmp_path, batch=2)
    assert more.__dict__["asked"] == [["a dog", "a cat"]]  # the batch is what it would be without the earlier run
    rows = 0
    for path in tmp_path.rglob("text-*.safetensors"):
        with safe_open(path, framework="pt") as opened:
            rows += len(opened.get_tensor(stored_prompts.KEYS))
    assert rows == 3


def test_long_prompts_are_told_every_run_though_encoded_once(
    tmp_path: Path, base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        assert StoredPromptTable(load_family(str(base)), PROMPTS, tmp_path).truncated == 1
    line = "1 of 5 prompts are longer than the text encoder takes; what lies beyond its limit is not seen"
    assert [record.getMessage() for record in caplog.records] == [line, line]
    assert StoredPromptTable(load_family(str(base)), ["a cat"], tmp_path).truncated == 0


def test_interrupted_and_run_again_gives_the_same_files_contents(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_prompts, "FILE_BYTES", 1)  # a file per batch
    whole = StoredPromptTable(counting(base), PROMPTS, tmp_path / "whole", batch=2)
    stopped = counting(base)
    stopped.__dict__["stop_at"] = 2
    with pytest.raises(KeyboardInterrupt):
        StoredPromptTable(stopped, PROMPTS, tmp_path / "torn", batch=2)
    rest = counting(base)
    table = StoredPromptTable(rest, PROMPTS, tmp_path / "torn", batch=2)
    assert rest.__dict__["asked"] == [["cat " * 90]]
    name = "prompt_embeds"
    assert torch.equal(table.lookup(PROMPTS).tensors[name], whole.lookup(PROMPTS).tensors[name])
    files = [sorted(path.name for path in (tmp_path / run).rglob("text-*")) for run in ("whole", "torn")]
    assert files[0] == files[1] and len(files[0]) == 3


def test_two_processes_share_the_prompts(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    for rank in (1, 0):  # the first does not wait: it is told that it is alone once its share is done
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        if rank == 1:
            monkeypatch.setattr(StoredPromptTable, "_wait_for_others", lambda self, process: None)
        else:
            monkeypatch.undo()
            monkeypatch.setenv("RANK", "0")
            monkeypatch.setenv("WORLD_SIZE", "2")
        family = counting(base)
        table = StoredPromptTable(family, PROMPTS, tmp_path, batch=2)
        asked.append(family.__dict__["asked"])
    assert asked == [[["", "a blue cat"]], [["a cat", "a red cat"], ["cat " * 90]]]
    assert len(table.lookup(PROMPTS)) == 6


def test_precision_and_text_encoder_have_folders_of_their_own(tmp_path: Path, base: Path) -> None:
    other = tiny_sd(tmp_path, seed=1)
    prints = {
        text_fingerprint(load_family(str(base))),
        text_fingerprint(load_family(str(base), dtype="bf16")),
        text_fingerprint(load_family(str(other))),
    }
    assert len(prints) == 3
    tokenizer = other / "tokenizer" / "tokenizer_config.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    assert text_fingerprint(load_family(str(other))) not in prints


def test_unknown_prompts_and_damaged_files_are_refused(tmp_path: Path, base: Path) -> None:
    table = StoredPromptTable(load_family(str(base)), PROMPTS, tmp_path)
    with pytest.raises(KeyError, match="a dog"):
        table.lookup(["a cat", "a dog"])
    file = next(tmp_path.rglob("text-*"))
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match="damaged.*delete it"):
        StoredPromptTable(load_family(str(base)), PROMPTS, tmp_path)


def test_a_full_disk_is_refused_before_the_work(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(UserError, match="text of 5 prompts needs"):
        StoredPromptTable(load_family(str(base)), PROMPTS, tmp_path)
