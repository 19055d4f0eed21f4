from __future__ import annotations

from collections import Counter

from tinyscenes.language import parse
from tinyscenes.prompts import (
    HELD_OUT,
    VALIDATION,
    heldout_prompts,
    split_of,
    train_prompts,
    validation_prompts,
)
from tinyscenes.scenes import CATEGORIES, COLORS, SHAPES, TEXTURES, Description, Thing


def test_held_out_is_decided_by_bindings() -> None:
    assert HELD_OUT.contains(parse("a red square and a blue square"))
    assert HELD_OUT.contains(parse("a green square above a striped red circle"))
    assert not HELD_OUT.contains(parse("a red triangle and a blue square"))
    assert HELD_OUT.contains(parse("a circle and a square"))
    assert HELD_OUT.contains(parse("a square and a circle"))
    assert not HELD_OUT.contains(parse("a magenta circle and a red cross"))
    assert not HELD_OUT.contains(Description((Thing("circle"),)))


def test_every_description_has_one_split() -> None:
    assert split_of(parse("a red triangle")) == "validation"
    assert split_of(parse("a red triangle and a red square")) == "heldout"
    assert split_of(parse("a red circle")) == "train"
    for name in ("color_shapes", "texture_shapes", "shape_pairs"):
        assert not getattr(HELD_OUT, name) & getattr(VALIDATION, name)


def test_sets_are_on_their_side_distinct_and_repeatable() -> None:
    sets = {"train": train_prompts(), "validation": validation_prompts(), "heldout": heldout_prompts()}
    for split, rows in sets.items():
        prompts = [row["prompt"] for row in rows]
        assert len(set(prompts)) == len(prompts)
        assert {split_of(parse(prompt)) for prompt in prompts} == {split}
        assert {row["category"] for row in rows} == set(CATEGORIES)
    assert train_prompts() == train_prompts()
    assert train_prompts(50, seed=3) != train_prompts(50, seed=4)


def test_small_categories_are_exhausted_and_the_rest_full() -> None:
    train = Counter(row["category"] for row in train_prompts(340))
    # 6 pairs of shapes in 2 orders less 2·3 kept out; numeracy: (24 - 10) bindings x 3 counts
    assert train["two_objects"] == 6
    assert train["numeracy"] == 42
    assert train["spatial"] == train["complex"] == 340
    assert sum(train.values()) >= 850
    heldout = Counter(row["category"] for row in heldout_prompts(40))
    assert heldout["two_objects"] == 4
    assert heldout["color"] == heldout["spatial"] == heldout["complex"] == 40


def test_every_word_stays_in_training() -> None:
    words = Counter(word for row in train_prompts() for word in row["prompt"].split())
    assert all(words[word] > 20 for word in (*COLORS, *SHAPES, *TEXTURES))


def test_the_start_of_the_list_is_balanced() -> None:
    assert {row["category"] for row in train_prompts()[:7]} == set(CATEGORIES)
