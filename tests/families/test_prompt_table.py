"""Text embeddings are computed once, and looked up by text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ddspo.errors import UserError
from ddspo.families.live_prompts import LivePromptTable
from ddspo.families.load import load_family
from ddspo.families.prompt_table import PromptTable
from ddspo.families.stable_diffusion import StableDiffusion
from ddspo.families.stored_prompts import StoredPromptTable
from ddspo.families.text_embedding import TextEmbedder
from ddspo.ledger import Ledger
from ddspo.pairs.make import PairMaker
from ddspo.pairs.plan import PlannedPair
from ddspo.recipe import Model, Pairs, Sampling
from ddspo.tensors import Conditioning
from helpers.tiny_families import tiny_flux, tiny_sana, tiny_sd3, tiny_sdxl
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


def draw_pairs(family: Any, prompts: Sequence[str], folder: Path) -> None:
    half = len(prompts) // 2
    pairs = [PlannedPair("id", *both, "swap", "x", 0) for both in zip(prompts[:half], prompts[half:], strict=True)]
    sampling = Sampling(steps=1, guidance_scale=1.0, batch_images=2 * half)
    PairMaker(family, Pairs(sampling=sampling), height_px=32, width_px=32).make(pairs, Ledger())


#: everything that reads prompts in numbers
READERS: dict[str, Callable[[Any, Sequence[str], Path], Any]] = {
    "memory": lambda family, prompts, folder: PromptTable(family, prompts),
    "disk": lambda family, prompts, folder: StoredPromptTable(family, prompts, folder),
    "distances": lambda family, prompts, folder: TextEmbedder(Model(), family=family)(prompts),
    "pairs": draw_pairs,
}


@pytest.mark.parametrize(
    ("build", "largest_encoder", "at_once", "reader"),
    [
        (tiny_sd, "text_encoder", 64, "memory"),
        (tiny_sdxl, "text_encoder_2", 64, "memory"),
        (tiny_sana, "text_encoder", 16, "memory"),
        (tiny_sd3, "text_encoder_3", 16, "disk"),
        (tiny_flux, "text_encoder_2", 16, "distances"),
        (tiny_flux, "text_encoder_2", 16, "pairs"),
    ],
)
def test_large_encoders_read_fewer_prompts_at_once(
    tmp_path: Path, build: Callable[[Path], Path], largest_encoder: str, at_once: int, reader: str
) -> None:
    family, read = load_family(str(build(tmp_path))), []
    family.part(largest_encoder).register_forward_pre_hook(
        lambda module, args, kwargs: read.append(len(kwargs.get("input_ids", args[0] if args else None))),
        with_kwargs=True,
    )
    prompts = [f"cat {number}" for number in range(at_once + 2)]
    READERS[reader](family, prompts, tmp_path / "text")
    assert read == [at_once, 2]


@pytest.mark.parametrize("build", [tiny_sd3, tiny_flux])
def test_rows_depend_on_their_batch_in_rounding_only(tmp_path: Path, build: Callable[[Path], Path]) -> None:
    family = load_family(str(build(tmp_path)))
    prompts = [f"{'red ' * (number % 5)}cat {number}" for number in range(17)]
    whole = family.encode_prompts(prompts).tensors
    for name, rows in PromptTable(family, prompts).lookup(prompts).tensors.items():
        torch.testing.assert_close(rows, whole[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("reader", "dtype"),
    [("memory", "fp32"), ("disk", "fp32"), ("distances", "fp32"), ("pairs", "fp32"), ("disk", "bf16")],
)
def test_too_little_memory_for_text_is_told_as_such(
    tmp_path: Path, reader: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = load_family(str(tiny_sd(tmp_path)), dtype=dtype)
    monkeypatch.setattr(type(family.part("text_encoder")), "forward", out_of_memory)
    with pytest.raises(UserError, match="while text was encoded.*model.offload") as caught:
        READERS[reader](family, ["a cat", "a dog"], tmp_path / "text")
    assert ("model.frozen_dtype" in str(caught.value)) == (dtype == "fp32")
    assert "batch" not in str(caught.value) and "\n" not in str(caught.value)


def test_training_does_not_blame_its_batch_for_text(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ddspo.training.loop import train
    from helpers.training_cases import make_case

    recipe, pairs = make_case(tmp_path_factory.mktemp("case"))
    monkeypatch.setattr(StableDiffusion, "encode_prompts", out_of_memory)
    with pytest.raises(UserError, match="while text was encoded") as caught:
        train(recipe, pairs, tmp_path / "run")
    assert "micro_batch_pairs" not in str(caught.value)


def out_of_memory(*args: Any, **kwargs: Any) -> Any:
    raise torch.OutOfMemoryError("simulated")


def test_a_live_table_encodes_what_is_looked_up_and_keeps_nothing(family: Counting) -> None:
    prompts = ["a cat", "a red cat", "", "a blue cat"]
    stored, live = PromptTable(family, prompts), LivePromptTable(family, prompts)
    asked = family.__dict__["asked"]
    asked.clear()
    wanted = ["a blue cat", "", "a blue cat"]
    rows = live.lookup(wanted).tensors["prompt_embeds"]
    assert asked == [["a blue cat", ""]] and "text_encoder" in family.loaded()
    torch.testing.assert_close(rows, stored.lookup(wanted).tensors["prompt_embeds"], rtol=0, atol=1e-6)
    assert len(live) == 4 and "a cat" in live and "a dog" not in live
    with pytest.raises(KeyError, match="a dog"):
        live.lookup(["a cat", "a dog"])


def test_a_live_table_counts_what_is_too_long_without_encoding(
    family: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    table = LivePromptTable(family, ["a cat", "red " * 100, "blue " * 100])
    assert table.truncated == 2 and "2 of 3 prompts are longer" in caplog.text
    assert "asked" not in family.__dict__


def test_a_live_table_with_offload_leaves_the_encoders_in_main_memory_between_lookups(
    family: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    rested: list[str] = []
    genuine = family.rest
    monkeypatch.setattr(family, "rest", lambda part: (rested.append(part), genuine(part)))
    plain, saving = LivePromptTable(family, ["a cat"]), LivePromptTable(family, ["a cat"], offload=True)
    expected = plain.lookup(["a cat"]).tensors["prompt_embeds"]
    assert rested == []
    for _ in range(2):  # and they come back for the next
        assert torch.equal(saving.lookup(["a cat"]).tensors["prompt_embeds"], expected)
    assert rested == ["text_encoder"] * 2
