"""Prompt sets: what training prompts say, and which combinations are kept out of them, for choosing and for judging.

Every description belongs to one split. 'validation' is for choosing anything (a strength, a sampler, a recipe);
'heldout' is for the final word, so nothing may be chosen after looking at it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .language import speak
from .scenes import CATEGORIES, Category, Description, Thing, sample_description

#: this many draws in a row without a new prompt mean that a category has no more
_PATIENCE = 5000


Split = Literal["train", "validation", "heldout"]


@dataclass(frozen=True)
class Combinations:
    """A set of descriptions, given by `contains`: those that speak of one of these combinations."""

    color_shapes: frozenset[tuple[str, str]]
    texture_shapes: frozenset[tuple[str, str]]
    shape_pairs: frozenset[frozenset[str]]

    def contains(self, description: Description) -> bool:
        """Whether a thing binds such a (color, shape) or (texture, shape), or bare shapes form such a pair.

        The pair of shapes counts only when no attribute is spoken: otherwise too little would be left to train on.
        """
        if any(self._binds(thing) for thing in description.things):
            return True
        bare = all(thing.color is None and thing.texture is None for thing in description.things)
        return bare and frozenset(thing.shape for thing in description.things) in self.shape_pairs

    def _binds(self, thing: Thing) -> bool:
        return (thing.color, thing.shape) in self.color_shapes or (thing.texture, thing.shape) in self.texture_shapes


#: 6 of 24 color-shape pairs (one per color), 3 of 12 texture-shape pairs (one per texture), 2 of 6 pairs of shapes;
#: every color, texture and shape still occurs in training prompts
HELD_OUT = Combinations(
    color_shapes=frozenset(
        {
            ("red", "square"),
            ("green", "cross"),
            ("blue", "triangle"),
            ("yellow", "circle"),
            ("magenta", "cross"),
            ("cyan", "square"),
        }
    ),
    texture_shapes=frozenset({("plain", "cross"), ("striped", "circle"), ("checkered", "triangle")}),
    shape_pairs=frozenset({frozenset({"circle", "square"}), frozenset({"triangle", "cross"})}),
)


#: the same kind of set, for everything that is chosen
VALIDATION = Combinations(
    color_shapes=frozenset({("red", "triangle"), ("green", "circle"), ("blue", "cross"), ("yellow", "square")}),
    texture_shapes=frozenset({("striped", "cross"), ("checkered", "circle")}),
    shape_pairs=frozenset({frozenset({"circle", "cross"})}),
)


def split_of(description: Description) -> Split:
    """Where a description belongs; what speaks of both sets is held out."""
    if HELD_OUT.contains(description):
        return "heldout"
    return "validation" if VALIDATION.contains(description) else "train"


def _distinct(category: Category, count: int, split: Split, rng: np.random.Generator) -> list[str]:
    """Up to `count` distinct prompts of one split, in order of drawing."""
    found: dict[str, None] = {}
    misses = 0
    while len(found) < count and misses < _PATIENCE:
        description = sample_description(rng, category)
        prompt = speak(description)
        misses += 1
        if split_of(description) == split and prompt not in found:
            found[prompt] = None
            misses = 0
    return list(found)


def _interleaved(per_category: int, split: Split, seed: int) -> list[dict[str, str]]:
    """The categories in turn, so that the start of the list is as balanced as the whole."""
    part = ("train", "heldout", "validation").index(split)
    columns = {
        category: _distinct(category, per_category, split, np.random.default_rng([seed, number, part]))
        for number, category in enumerate(CATEGORIES)
    }
    return [
        {"prompt": prompts[row], "category": category}
        for row in range(max(map(len, columns.values())))
        for category, prompts in columns.items()
        if row < len(prompts)
    ]


def train_prompts(per_category: int = 60, seed: int = 0) -> list[dict[str, str]]:
    """Distinct prompts to train on, [{"prompt", "category"}]; equal for equal arguments.

    Categories that have fewer than `per_category` such prompts give all they have; by default there are 272 in all.
    More of the large categories would drown the small ones.
    """
    return _interleaved(per_category, "train", seed)


def validation_prompts(per_category: int = 40, seed: int = 2) -> list[dict[str, str]]:
    """Distinct prompts to choose by, [{"prompt", "category"}], all in `VALIDATION`, none in `HELD_OUT`."""
    return _interleaved(per_category, "validation", seed)


def heldout_prompts(per_category: int = 40, seed: int = 1) -> list[dict[str, str]]:
    """Distinct prompts to judge by, [{"prompt", "category"}], all of them in `HELD_OUT`; equal for equal arguments.

    two_objects has only four such prompts; several pictures per prompt give it weight.
    """
    return _interleaved(per_category, "heldout", seed)
