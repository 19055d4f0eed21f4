"""Prompt and description say the same, exactly."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.scene_draws import draw
from tinyscenes.language import WORDS, PromptError, parse, speak
from tinyscenes.scenes import COLORS, MAX_COUNT, RELATIONS, SHAPES, TEXTURES, Description, Thing

THINGS = [
    Thing(*facts) for facts in itertools.product(SHAPES, (None, *COLORS), (None, *TEXTURES), range(1, MAX_COUNT + 1))
]


def test_every_single_thing_there_and_back() -> None:
    assert len(THINGS) == 4 * 7 * 4 * 4
    prompts = {speak(Description((thing,))) for thing in THINGS}
    assert len(prompts) == len(THINGS)
    for thing in THINGS:
        description = Description((thing,))
        assert parse(speak(description)) == description


@settings(max_examples=500, derandomize=True, deadline=None)
@given(st.sampled_from(THINGS), st.sampled_from(THINGS), st.sampled_from([None, *RELATIONS]))
def test_two_things_there_and_back(first: Thing, second: Thing, relation: str | None) -> None:
    description = Description((first, second), relation)
    assert parse(speak(description)) == description
    assert set(speak(description).split()) <= set(WORDS)


def test_every_category_there_and_back() -> None:
    for _, description, _ in draw(100):
        assert parse(speak(description)) == description


def test_spoken_form() -> None:
    red, crosses = Thing("circle", "red", "striped"), Thing("cross", "cyan", count=3)
    assert speak(Description((red, crosses))) == "a striped red circle and three cyan crosses"
    assert (
        speak(Description((red, Thing("square")), "to the left of")) == "a striped red circle to the left of a square"
    )


def test_case_and_spaces_do_not_matter() -> None:
    assert parse("  A  Red circle\n ABOVE a   cross ") == Description((Thing("circle", "red"), Thing("cross")), "above")


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("", "''"),
        ("red circle", "'red circle'"),
        ("a red dog", "'a red dog'"),
        ("a red striped circle", "unexpected word 'striped'"),
        ("a red blue circle", "unexpected word 'blue'"),
        ("two circle", "number and noun disagree"),
        ("a circles", "number and noun disagree"),
        ("a circle and", "'a circle and'"),
        ("a circle and a cross and a square", "more than two things"),
        ("a circle above a cross below a square", "more than two things"),
        ("a photo of a red circle", "unexpected word 'photo'"),
        ("five circles", "'five circles'"),
    ],
)
def test_other_text_is_refused_by_name(prompt: str, told: str) -> None:
    with pytest.raises(PromptError, match=told):
        parse(prompt)


def test_words_are_distinct_and_lower_case() -> None:
    assert len(set(WORDS)) == len(WORDS)
    assert all(word == word.lower() and " " not in word for word in WORDS)
