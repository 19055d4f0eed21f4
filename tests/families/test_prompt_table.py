"""Text embeddings are computed once, and looked up by text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from ddspo.families.load import load_family
from ddspo.families.prompt_table import PromptTable
from ddspo.families.stable_diffusion import StableDiffusion
from ddspo.tensors import Conditioning
from helpers.tiny_pipelines import tiny_sd


class Counting(StableDiffusion):
    """Notes what it is asked to encode."""

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        self.__dict__.setdefault("asked", []).append(list(prompts))
        return super().encode_prompts(prompts)


@pytest.fixture
def family(tmp_path: Path) -> Counting:
    return Counting(load_family(str(tiny_sd(tmp_path))).folder)


def test_every_unique_prompt_is_encoded_once_in_batches(family: Counting) -> None:
    table = PromptTable(family, iter(["a cat", "a red cat", "a cat", "", "a blue cat", ""]), batch=3)
    assert family.__dict__["asked"] == [["a cat", "a red cat", ""], ["a blue cat"]]
    assert len(table) == 4 and "a cat" in table and "a dog" not in table
    assert "text_encoder" in family.loaded()


def test_rows_are_those_of_the_prompts_in_order(family: Counting) -> None:
    table = PromptTable.build(family, ["a cat", "a red cat", "", "a blue cat"], batch=3)
    assert family.loaded() == set()
    wanted = ["a blue cat", "", "a blue cat", "a cat"]
    rows = table.lookup(wanted)
    assert len(rows) == 4
    expected = family.encode_prompts(wanted).tensors["prompt_embeds"]
    torch.testing.assert_close(rows.tensors["prompt_embeds"], expected, rtol=0, atol=1e-6)
    assert torch.equal(rows.tensors["prompt_embeds"][0], rows.tensors["prompt_embeds"][2])


def test_precision_is_the_encoders(tmp_path: Path) -> None:
    family = load_family(str(tiny_sd(tmp_path)), dtype="bf16")
    assert PromptTable(family, ["a cat"]).lookup(["a cat"]).tensors["prompt_embeds"].dtype == torch.bfloat16


def test_long_prompts_are_counted_once_and_told_in_one_line(family: Counting, caplog: pytest.LogCaptureFixture) -> None:
    table = PromptTable(family, ["a cat", "cat " * 75, "cat " * 76, "cat " * 200, "cat " * 200], batch=2)
    assert table.truncated == 2  # 75 words and the two markers are exactly 77 tokens
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 4 prompts are longer than the text encoder takes; what lies beyond its limit is not seen"
    ]


def test_unknown_prompts_and_empty_tables(family: Counting) -> None:
    with pytest.raises(KeyError, match="a dog"):
        PromptTable(family, ["a cat"]).lookup(["a dog"])
    empty = PromptTable(family, [])
    assert len(empty) == 0
    with pytest.raises(KeyError):
        empty.lookup([])
