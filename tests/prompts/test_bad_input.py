"""Whatever stands in a list of prompts: never a crash, never a silent drop; every prompt is written or counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ddspo.prompts.answers import judge_answer
from ddspo.prompts.degrade import degrade_prompts, skipped_path
from ddspo.prompts.preview import preview_html, preview_rows
from ddspo.prompts.quality import text_distance
from ddspo.prompts.removal import RemovalDegrader
from ddspo.prompts.rules.degrader import RulesDegrader
from ddspo.prompts.scenes import ScenesDegrader
from ddspo.prompts.sources import clean_prompt, read_prompts
from ddspo.prompts.stream import open_prompts
from ddspo.prompts.variants import Degrader, UnusableError
from ddspo.recipe import Degradation

BAD = [
    "cat",
    "x" * 10_000,
    "word " * 2_000,
    "a red car and " * 700,
    "(red:1.3) car on a ((blue:0.8)) mat, <lora:x:1>",
    "<lora:x:1>",
    "(a:1)(b:2)",
    "قطة حمراء على سجادة زرقاء",
    "חתול אדום על מחצלת כחולה",
    "一只红色的猫坐在蓝色的垫子上",
    "赤い猫 と 青い犬",
    "🐈 🐕‍🦺 👩‍🚀",
    "a 🐈 and a 🐕",
    "a\u202ered\u202c cat",
    "İstanbul'da kırmızı bir İnek",
    "ﬁne red ﬂower and a blue ﬁsh",
    "a, , ,, b",
    "... !!! ,,, ;;;",
    "%s {} \\n \"quoted\" 'x' <b>&amp;</b>",
    "a\N{NO-BREAK SPACE}red\N{NO-BREAK SPACE}cat",
    "ten 10 2nd 007 -3 ٣ ④ cats",
    "A A A a an AN the",
    "a photo of",
    "in the style of, by",
    "between and or of",
    "tHe rEd CAR And thE Blue bUS",
]
DEGRADERS: dict[str, Callable[[], Degrader]] = {
    "words": lambda: RemovalDegrader(0.4, 0.7),
    "everything": lambda: RemovalDegrader(1.0, 1.0),
    "content_words": lambda: RemovalDegrader(0.4, 0.7, "content_words"),
    "phrases": lambda: RemovalDegrader(0.4, 0.7, "phrases", keep_style=True),
    "rules": RulesDegrader,
    "scenes": ScenesDegrader,
}
# Pieces that rules look at, in any order, besides any text at all.
_PIECES = st.sampled_from(
    "a an the red blue two 3 car cars dog dogs person people of on above between and , . ; : ( ) (red:1.3) <lora:x:1> "
    "left right to next photo by style oil painting is are with group stone parking meter 🐈 猫 قطة İ ß -".split()
)
PROMPTS = st.one_of(
    st.text(min_size=1, max_size=80),
    st.lists(_PIECES, min_size=1, max_size=14).map(" ".join),
    st.lists(st.one_of(_PIECES, st.text(max_size=6)), min_size=1, max_size=10).map("".join),
)


def check(degrader: Degrader, prompt: str, seed: int) -> None:
    """What every degrader promises, or a reason."""
    try:
        made = degrader.degrade(prompt, np.random.default_rng(seed), 5)
    except UnusableError as reason:
        assert str(reason)
        return
    texts = [variant.text for variant in made]
    assert 1 <= len(texts) <= 5 and len(set(texts)) == len(texts)
    for variant in made:
        assert variant.text.strip() and " ".join(variant.text.split()) != " ".join(prompt.split())
        assert variant.kind and variant.change
        assert 0 <= text_distance(prompt, variant.text) <= 1
        json.dumps([variant.text, variant.change], ensure_ascii=False).encode()
    again = degrader.degrade(prompt, np.random.default_rng(seed), 5)
    assert again == made


@pytest.mark.parametrize("name", DEGRADERS)
@pytest.mark.parametrize("prompt", BAD)
def test_every_degrader_survives_the_list(name: str, prompt: str) -> None:
    check(DEGRADERS[name](), clean_prompt(prompt), 0)


@pytest.mark.parametrize("name", DEGRADERS)
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.differing_executors])
@given(raw=PROMPTS, seed=st.integers(0, 3))
@example(raw="(red:1.3)", seed=0)
@example(raw="a <lora:x:1> , a", seed=0)
def test_every_degrader_survives_anything(name: str, raw: str, seed: int) -> None:
    prompt = clean_prompt(raw)
    if prompt:
        check(DEGRADERS[name](), prompt, seed)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(prompt=PROMPTS, answer=st.one_of(st.text(max_size=200), st.lists(PROMPTS, max_size=4).map(json.dumps)))
def test_answers_of_any_kind_are_judged(prompt: str, answer: str) -> None:
    """The part of a language model's degrader that reads: variants, or a reason."""
    made, _, why = judge_answer("compositional", clean_prompt(prompt) or "x", answer, 5)
    assert (why is None) == bool(made)


def _settings(method: str, **fields: Any) -> Degradation:
    return Degradation(method=method, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["removal", "rules"])
def test_every_line_of_a_bad_file_is_written_or_counted(
    tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["", "   ", "\t", *BAD, "cat", "  cat ", "a red\x00 \x1b[31mcat\x07 on a mat", "a red cat on a mat"]
    raw = [line.encode() for line in lines] + [b"caf\xe9 with a red ch\xe2teau", b"\xff\xfe\xfd", b"\xed\xa0\x80 lone"]
    source = tmp_path / "bad.txt"
    source.write_bytes(b"\n".join(raw) + b"\n")
    given_prompts = open_prompts(str(source))
    summary = degrade_prompts(_settings(method), given_prompts, tmp_path / "d.jsonl", seed=0)
    rows = [json.loads(line) for line in (tmp_path / "d.jsonl").read_text(encoding="utf-8").splitlines()]
    skipped = [json.loads(line) for line in skipped_path(tmp_path / "d.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) + len(skipped) == len(given_prompts) == summary.prompts
    assert summary.written + sum(summary.skipped.values()) == len(raw)
    assert all(row["skipped"] for row in skipped)
    assert summary.skipped["source: duplicate"] >= 2 and summary.skipped["source: empty"] == 3
    listed = read_prompts(str(source))
    assert [record.id for record in listed] == [record.id for record in given_prompts]
    assert "3 not UTF-8, read as Windows-1252 (first: line " in capsys.readouterr().err
    assert listed.repaired.counts["not UTF-8, read as Windows-1252"] == 3
    page = preview_html(preview_rows(_settings(method), listed, 0), tmp_path / "p.html").read_text(encoding="utf-8")
    assert "<b>&amp;</b>" not in page and "\x1b" not in page
