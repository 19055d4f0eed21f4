"""Prompt sets: what training prompts say, and what is held out of them for evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .language import speak
from .scenes import CATEGORIES, Category, Description, Thing, sample_description

#: this many draws in a row without a new prompt mean that a category has no more
_PATIENCE = 5000


@dataclass(frozen=True)
class HeldOut:
    """Combinations that no training prompt contains; a set of descriptions, given by `contains`."""

    color_shapes: frozenset[tuple[str, str]]
    texture_shapes: frozenset[tuple[str, str]]
    shape_pairs: frozenset[frozenset[str]]

    def contains(self, description: Description) -> bool:
        """Whether a thing binds a held-out (color, shape) or (texture, shape), or bare shapes form a held-out pair.

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
HELD_OUT = HeldOut(
    color_shapes=frozenset(
        {
            ("red", "triangle"),
            ("green", "circle"),
            ("blue", "cross"),
            ("yellow", "square"),
            ("magenta", "triangle"),
            ("cyan", "circle"),
        }
    ),
    texture_shapes=frozenset({("plain", "square"), ("striped", "cross"), ("checkered", "circle")}),
    shape_pairs=frozenset({frozenset({"circle", "cross"}), frozenset({"square", "triangle"})}),
)


def _distinct(category: Category, count: int, held_out: bool, rng: np.random.Generator) -> list[str]:
    """Up to `count` distinct prompts on the wanted side of `HELD_OUT`, in order of drawing."""
    found: dict[str, None] = {}
    misses = 0
    while len(found) < count and misses < _PATIENCE:
        description = sample_description(rng, category)
        prompt = speak(description)
        misses += 1
        if HELD_OUT.contains(description) == held_out and prompt not in found:
            found[prompt] = None
            misses = 0
    return list(found)


def _interleaved(per_category: int, held_out: bool, seed: int) -> list[dict[str, str]]:
    """The categories in turn, so that the start of the list is as balanced as the whole."""
    columns = {
        category: _distinct(category, per_category, held_out, np.random.default_rng([seed, number, int(held_out)]))
        for number, category in enumerate(CATEGORIES)
    }
    return [
        {"prompt": prompts[row], "category": category}
        for row in range(max(map(len, columns.values())))
        for category, prompts in columns.items()
        if row < len(prompts)
    ]


def train_prompts(per_category: int = 60, seed: int = 0) -> list[dict[str, str]]:
    """Distinct prompts to train on, [{"prompt", "category"}], none in `HELD_OUT`; equal for equal arguments.

    Categories that have fewer than `per_category` such prompts give all they have; by default there are 320 in all: 60
    color, spatial and complex ones each, 54 numeracy, 42 texture, 36 shape and 8 two_objects. More of the large
    categories would drown the small ones.
    """
    return _interleaved(per_category, False, seed)


def heldout_prompts(per_category: int = 40, seed: int = 1) -> list[dict[str, str]]:
    """Distinct prompts to evaluate on, [{"prompt", "category"}], all of them in `HELD_OUT`; equal for equal arguments.

    two_objects has only four such prompts; several pictures per prompt give it weight.
    """
    return _interleaved(per_category, True, seed)
