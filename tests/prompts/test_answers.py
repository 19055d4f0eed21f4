from __future__ import annotations

import json

import pytest

from ddspo.prompts.answers import judge_answer, parse_answer, rejection
from ddspo.prompts.instructions import KINDS, messages, schema

PROMPT = "a red car next to a blue bus, oil painting"
GOOD = [
    {"text": "a blue car next to a red bus, oil painting", "kind": "swap_attributes", "change": "red <-> blue"},
    {"text": "a car next to a blue bus, oil painting", "kind": "drop_attribute", "change": "red left out"},
]
BOTH = [(row["text"], row["kind"], row["change"]) for row in GOOD]
TEXTS = [(row["text"], "", "") for row in GOOD]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (json.dumps({"variants": GOOD}), BOTH),
        (json.dumps(GOOD), BOTH),
        ("Sure! Here you go:\n```json\n" + json.dumps({"variants": GOOD}, indent=1) + "\n```\nAnything else?", BOTH),
        ('<think>maybe {"variants": []}</think>' + json.dumps({"variants": GOOD}), BOTH),
        ("I made [two] of them: " + json.dumps({"variants": GOOD}) + " done", BOTH),
        (json.dumps([row["text"] for row in GOOD]), TEXTS),
        (json.dumps({"variants": GOOD})[:-40], BOTH[:1]),
        ('{"variants": [{"text": "a blue car", "ki', [("a blue car", "", "")]),
        ("1. " + GOOD[0]["text"] + '\n2) "' + GOOD[1]["text"] + '"', TEXTS),
        ('{"variants": []}', []),
        ("I cannot help with that.", None),
        ("", None),
        ("[" * 5000, None),
        ('{"variants": [{"text": 3}]}', None),
    ],
)
def test_answers_of_every_shape(answer: str, expected: object) -> None:
    assert parse_answer(answer) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a blue car next to a red bus, oil painting", None),
        ("A red car, next to a blue bus, OIL painting", None),
        ("a red car next to a blue bus , oil Painting", "repeats the prompt"),
        ("", "empty"),
        ("...", "empty"),
        ("a red car next to a blue bus, oil painting, with a wizard and a dragon over high mountains", "adds content"),
        ("an elderly fisherman mending nets on a quiet harbor", "adds content"),
    ],
)
def test_compositional_rejections(text: str, reason: str | None) -> None:
    assert rejection("compositional", PROMPT, text) == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a red car next to a blue bus, oil painting, muddy colors, clumsy brushwork", None),
        ("a red car, oil painting, muddy colors", "changes the subject"),
        ("a red car next to a blue bus, " + "bad " * 30, "adds content"),
    ],
)
def test_aesthetic_rejections(text: str, reason: str | None) -> None:
    assert rejection("aesthetic", PROMPT, text) == reason


def test_judging_counts_what_it_rejects() -> None:
    shouted = {**GOOD[0], "text": GOOD[0]["text"].upper()}
    rows = [*GOOD, shouted, {"text": PROMPT}, {"text": "a\nb\x00 bus", "kind": "odd"}]
    kept, rejected, why = judge_answer("compositional", PROMPT, json.dumps({"variants": rows}), 5)
    assert [variant.text for variant in kept] == [GOOD[0]["text"], GOOD[1]["text"], "a b bus"]
    assert [variant.kind for variant in kept] == ["swap_attributes", "drop_attribute", "rewrite"]
    assert rejected == {"answer: duplicate": 1, "answer: repeats the prompt": 1} and why is None
    assert judge_answer("compositional", PROMPT, '{"variants": []}', 5)[2] == "the model found nothing to degrade"
    kept, rejected, why = judge_answer("compositional", PROMPT, json.dumps([PROMPT]), 5)
    assert not kept and why == "every variant in the model's answer was rejected"
    assert len(judge_answer("compositional", PROMPT, json.dumps(GOOD), 1)[0]) == 1


@pytest.mark.parametrize("task", ["compositional", "aesthetic"])
def test_our_own_examples_pass_our_own_checks(task: str) -> None:
    turns = messages(task, "a {curly} prompt", 3)
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2) + ["user"]
    assert turns[-1]["content"] == "Prompt: a {curly} prompt"
    assert "up to 3 spoiled" in turns[0]["content"] and '{"variants": [{"text"' in turns[0]["content"]
    for asked, answered in zip(turns[::2], turns[1::2], strict=False):
        prompt = asked["content"].rsplit("Prompt: ", 1)[1]
        stated = json.loads(answered["content"])["variants"]
        kept, rejected, _ = judge_answer(task, prompt, answered["content"], 9)
        assert len(kept) == len(stated) and not rejected
        assert all(variant.kind in KINDS[task] for variant in kept)
    assert schema(task)["properties"]["variants"]["items"]["properties"]["kind"]["enum"] == list(KINDS[task])
