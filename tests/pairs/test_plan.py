"""The plan is a pure function: which prompt, which variant, which seed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ddspo.errors import UserError
from ddspo.pairs.plan import DegradedPrompt, fingerprint, plan_pairs, read_degraded
from ddspo.prompts.variants import Variant


def degraded(number: int, variants: int = 3) -> DegradedPrompt:
    made = (Variant(f"prompt {number} without {v}", f"kind {v}", f"change {v}") for v in range(variants))
    return DegradedPrompt(f"id{number}", f"prompt {number}", tuple(made))


PROMPTS = [degraded(number) for number in range(5)]


def test_one_pair_per_prompt_by_default_in_a_seeded_order() -> None:
    plan = plan_pairs(PROMPTS, None, run_seed=0)
    assert sorted(pair.prompt_id for pair in plan) == [prompt.id for prompt in PROMPTS]
    assert plan == plan_pairs(PROMPTS, None, run_seed=0)
    orders = {tuple(pair.prompt_id for pair in plan_pairs(PROMPTS, None, run_seed=seed)) for seed in range(10)}
    assert len(orders) > 5


def test_every_turn_takes_every_prompt_once_with_another_variant_and_seed() -> None:
    plan = plan_pairs(PROMPTS, 15, run_seed=3)
    for turn in range(3):
        assert len({pair.prompt_id for pair in plan[5 * turn : 5 * turn + 5]}) == 5
    for prompt in PROMPTS:
        mine = [pair for pair in plan if pair.prompt_id == prompt.id]
        assert {pair.degraded_prompt for pair in mine} == {variant.text for variant in prompt.variants}
        assert len({pair.seed for pair in mine}) == 3
    assert len({pair.seed for pair in plan}) == len({pair.id("f") for pair in plan}) == 15


def test_variants_repeat_with_new_seeds_when_they_run_out() -> None:
    plan = plan_pairs([degraded(0, variants=2)], 6, run_seed=0)
    assert Counter(pair.degraded_prompt for pair in plan) == {"prompt 0 without 0": 3, "prompt 0 without 1": 3}
    assert len({pair.seed for pair in plan}) == 6


def test_how_belongs_to_its_variant() -> None:
    for pair in plan_pairs(PROMPTS, 15, run_seed=1):
        variant = pair.degraded_prompt[-1]
        assert (pair.kind, pair.change) == (f"kind {variant}", f"change {variant}")
        assert pair.degraded_prompt.startswith(pair.prompt)


def test_first_variants_are_spread() -> None:
    plan = plan_pairs([degraded(number) for number in range(300)], None, run_seed=0)
    assert all(count > 60 for count in Counter(pair.kind for pair in plan).values())


def test_a_smaller_count_is_the_beginning_of_a_larger_one() -> None:
    assert plan_pairs(PROMPTS, 12, run_seed=0)[:3] == plan_pairs(PROMPTS, 3, run_seed=0)


def test_neither_order_nor_company_of_prompts_changes_a_pair() -> None:
    alone = plan_pairs([PROMPTS[2]], 1, run_seed=0)[0]
    among = plan_pairs(PROMPTS[::-1], None, run_seed=0)
    assert among == plan_pairs(PROMPTS, None, run_seed=0)
    assert alone in among


def test_seeds_are_exact_as_json_numbers() -> None:
    assert all(0 <= pair.seed < 2**53 for pair in plan_pairs(PROMPTS, 100, run_seed=0))


def test_id_follows_from_content_and_reference() -> None:
    first, second = plan_pairs(PROMPTS, 2, run_seed=0)
    assert first.id("f") == first.id("f") != first.id("g")
    assert first.id("f") != second.id("f")


def test_fingerprint_sees_texts_but_not_order() -> None:
    assert fingerprint(PROMPTS) == fingerprint(PROMPTS[::-1])
    assert fingerprint(PROMPTS) != fingerprint(PROMPTS[:4])
    assert fingerprint(PROMPTS) != fingerprint([*PROMPTS[:4], degraded(4, variants=2)])


def row(number: int, **changes: Any) -> dict[str, Any]:
    prompt = degraded(number)
    texts = [variant.text for variant in prompt.variants]
    how = [{"kind": variant.kind, "change": variant.change} for variant in prompt.variants]
    fields = {"id": prompt.id, "prompt": prompt.prompt, "degraded_prompts": texts, "how": how}
    return {**fields, "seed": 0, "meta": {}, **changes}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_reads_what_can_be_used(tmp_path: Path) -> None:
    path = write(tmp_path / "degraded.jsonl", row(0), row(1, degraded_prompts=[], how=[]), row(2))
    assert read_degraded(path) == [degraded(0), degraded(2)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(0), {"id": "x", "prompt": "a cat"}], "row 2: field 'degraded_prompts' is missing"),
        ([row(0, prompt=3)], "row 1: field 'prompt' is missing or not a str"),
        ([row(0, how=[])], "3 degraded_prompts but 0 entries in 'how'"),
        ([row(0, how=[{"kind": "drop"}] * 3)], "row 1: an entry of 'how' lacks 'kind' or 'change'"),
        ([row(0), row(1), row(0)], "row 3: the id 'id0' occurs twice"),
        ([row(0, degraded_prompts=[], how=[])], "holds no degraded prompts"),
        ([], "holds no degraded prompts"),
    ],
)
def test_malformed_files_are_refused_by_file_row_and_field(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_degraded(write(tmp_path / "degraded.jsonl", *rows))
    assert "degraded.jsonl" in str(caught.value)
