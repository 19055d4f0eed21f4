"""Mistakes of grammar and sense that reading samples of the rules' work has shown; each stays mended."""

from __future__ import annotations

import numpy as np
import pytest

from ddspo.prompts.rules.analysis import analyze
from ddspo.prompts.rules.degrader import RULES, RulesDegrader
from ddspo.prompts.rules.lexicon import PLACE_GROUPS, is_alive
from ddspo.prompts.rules.tagger import WordListTagger
from ddspo.prompts.rules.words import is_abstract
from ddspo.prompts.variants import UnusableError


def made(prompt: str, kind: str, seed: int = 0) -> set[str]:
    """Every variant of one kind; with each seed those that draw draw anew."""
    try:
        return {v.text for v in RulesDegrader((kind,)).degrade(prompt, np.random.default_rng(seed), 100)}
    except UnusableError:
        return set()


def tags(prompt: str) -> list[str]:
    return list(analyze(prompt, WordListTagger()).tags)


@pytest.mark.parametrize(
    ("prompt", "index", "tag"),
    [
        ("a woman holding a shopping bag", 4, "noun"),
        ("a running dog", 1, "adjective"),
        ("a man walking a dog and running in the park", 6, "verb"),
        ("a child is holding a crayon and drawing a picture", 7, "verb"),
        ("A man is painting a mural", 3, "verb"),
        ("a painting on a wall", 1, "noun"),
        ("The gown outshined elegance", 2, "verb"),
        ("the designer carefully tested fabrics", 3, "verb"),
        ("A family is in the park, relishing snacks", 7, "verb"),
        ("portrait, glimmering hair", 2, "adjective"),
        ("the cars passed each other", 4, "pronoun"),
        ("a dog runs alongside a bike", 3, "preposition"),
    ],
)
def test_parts_of_speech(prompt: str, index: int, tag: str) -> None:
    assert tags(prompt)[index] == tag


@pytest.mark.parametrize(
    ("kind", "prompt", "expected"),
    [
        # One noun that is two words gives none of them away.
        ("swap_attributes", "a woman with a shopping bag and a red hat", {
            "a red woman with a shopping bag and a hat", "a woman with a red shopping bag and a hat",
        }),
        ("change_attribute", "a sweet potato", set()),
        ("change_attribute", "a hot air balloon", set()),
        ("drop_attribute", "a friend in a hot tub", set()),
        # A comma between attributes is no place to take the first one away from.
        ("swap_attributes", "The hot, wet water of the spring", {"The water of the hot, wet spring"}),
        # What is no thing.
        ("drop_attribute", "a dog with incredible ease", set()),
        ("drop_object", "a display of artistry and craftsmanship", set()),
        ("drop_object", "A man is talking with pride", set()),
        ("drop_object", "A man is looking at a bird", set()),
        ("drop_object", "a bird flying from tree to tree", set()),
        ("drop_object", "The family gathered around for a night in", set()),
        ("drop_count", "a red car, 8 k, oil painting", set()),
        ("change_count", "two dogs, 8 k", {"one dog, 8 k", "three dogs, 8 k"}),
        ("drop_object", "a cat, oil on canvas", set()),
        # Relations that are none, or say nothing else elsewhere.
        ("change_relation", "friends talking over lunch", set()),
        ("reverse_relation", "friends talking under the stars", set()),
        ("swap_objects", "a man meditating under a tree", set()),
        ("swap_objects", "a man under a tree", {"a tree under a man"}),
        ("swap_objects", "a cup standing under a tree", {"a tree standing under a cup"}),
        # Opposites and renaming in the right sense.
        ("change_attribute", "an old man", {"a young man"}),
        ("change_attribute", "an old chair", {"a new chair"}),
        ("change_attribute", "fresh bread", {"rotten bread"}),
        ("change_attribute", "fresh air", set()),
        ("generalize_noun", "a girl jumping rope", {"a person jumping rope"}),
        ("generalize_noun", "its owner", set()),
        # A shared determiner moves to the plural that stays.
        ("drop_object", "a hut with its warm colors and dark windows", {
            "a hut", "a hut with its dark windows", "a hut with its warm colors",
        }),
        ("drop_object", "a hut with a red door and dark windows", {
            "a hut", "a hut with dark windows", "a hut with a red door", "a red door and dark windows",
        }),
    ],
)  # fmt: skip
def test_edits_by_hand(kind: str, prompt: str, expected: set[str]) -> None:
    found = made(prompt, kind)
    if kind == "change_count":
        assert expected <= found and all(text.endswith(", 8 k") for text in found)
        return
    assert found == expected


def test_owners_agree_with_a_subject_that_becomes_several() -> None:
    assert made("A dog is following its owner and admiring itself", "change_count") == {
        "Two dogs are following their owner and admiring themselves",
        "Three dogs are following their owner and admiring themselves",
    }
    assert "two women feed her" in made("a woman feeds her", "change_count")
    assert "one dog is following their owner" in made("two dogs are following their owner", "change_count")


def test_a_place_gives_way_to_one_with_the_same_preposition() -> None:
    rooms, waters = PLACE_GROUPS[0], PLACE_GROUPS[3]
    for seed in range(20):
        (room,) = made("in the kitchen", "change_object", seed)
        assert room.split()[-1] in set(rooms) - {"kitchen"}
        (water,) = made("along the river", "change_object", seed)
        assert water.split()[-1] in set(waters) - {"river"}
    assert not made("in the zoo", "change_object"), "a place without a group is left alone"


def test_whoever_works_becomes_no_baby() -> None:
    assert {next(iter(made("the chef", "change_object", seed))) for seed in range(60)} == {
        "the man", "the woman", "the boy", "the girl", "the child",
    }  # fmt: skip


def test_what_is_seen_and_what_is_alive() -> None:
    assert all(is_abstract(noun) for noun in ("elegance", "craftsmanship", "pride", "sophistication", "beauty"))
    assert not any(is_abstract(noun) for noun in ("station", "dog", "fence", "city", "lion", "pillow"))
    assert is_alive("geese") and is_alive("chef") and not is_alive("car") and not is_alive("zorbly")


def test_kinds_stay_as_documented() -> None:
    assert list(RULES) == [
        "drop_attribute", "change_attribute", "swap_attributes", "drop_object", "change_object", "swap_objects",
        "drop_relation", "change_relation", "reverse_relation", "change_count", "drop_count", "generalize_noun",
        "drop_phrase", "drop_style",
    ]  # fmt: skip
