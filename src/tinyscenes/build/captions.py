"""Imperfect captions, as a web-scale data set has them: what leaves the base something to learn from alignment.

The scene is always right; only what is said of it can be wrong or missing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from ..edits import swap_attributes
from ..language import speak
from ..scenes import (
    CATEGORIES,
    COLORS,
    MAX_COUNT,
    RELATIONS,
    TEXTURES,
    Description,
    Thing,
    sample_description,
    sample_single,
)

T = TypeVar("T")


@dataclass(frozen=True)
class CaptionNoise:
    """Probabilities, each per caption and independent of the others."""

    empty: float = 0.10
    """no caption at all: the unconditional row that guidance needs"""
    swap_attributes: float = 0.25
    """two things exchange their spoken attributes"""
    wrong_relation: float = 0.25
    """another of the four relations is said"""
    wrong_count: float = 0.25
    """another number is said"""
    wrong_attribute: float = 0.06
    """one color or texture is said wrongly"""
    drop_attribute: float = 0.10
    """per attribute: it is not said"""
    drop_thing: float = 0.05
    """of two things, only one is said"""
    drop_relation: float = 0.10
    """'and' is said instead of the relation"""


def sample_true_description(rng: np.random.Generator) -> Description:
    """What a training picture truly shows: one part single things, then every category alike."""
    kind = int(rng.integers(len(CATEGORIES) + 1))
    return sample_single(rng) if kind == len(CATEGORIES) else sample_description(rng, CATEGORIES[kind])


def _other(rng: np.random.Generator, options: tuple[T, ...], current: T | None) -> T:
    rest = [option for option in options if option != current]
    return rest[int(rng.integers(len(rest)))]


def _spoil_thing(thing: Thing, noise: CaptionNoise, rng: np.random.Generator) -> Thing:
    if thing.color and rng.random() < noise.wrong_attribute:
        thing = replace(thing, color=_other(rng, COLORS, thing.color))
    if thing.texture and rng.random() < noise.wrong_attribute:
        thing = replace(thing, texture=_other(rng, TEXTURES, thing.texture))
    if thing.count > 1 and rng.random() < noise.wrong_count:
        thing = replace(thing, count=_other(rng, tuple(range(1, MAX_COUNT + 1)), thing.count))
    return replace(
        thing,
        color=None if rng.random() < noise.drop_attribute else thing.color,
        texture=None if rng.random() < noise.drop_attribute else thing.texture,
    )


def caption(description: Description, noise: CaptionNoise, rng: np.random.Generator) -> str:
    """What the imperfect annotator writes about a picture that truly shows `description`."""
    if rng.random() < noise.empty:
        return ""
    said = description
    if len(said.things) == 2 and rng.random() < noise.swap_attributes:
        said = swap_attributes(said)
    if said.relation is not None:
        if rng.random() < noise.wrong_relation:
            said = replace(said, relation=_other(rng, tuple(RELATIONS), said.relation))
        if rng.random() < noise.drop_relation:
            said = replace(said, relation=None)
    if len(said.things) == 2 and rng.random() < noise.drop_thing:
        said = Description((said.things[int(rng.integers(2))],))
    elif len(said.things) == 2 and said.relation is None and rng.random() < 0.5:
        said = replace(said, things=said.things[::-1])
    return speak(replace(said, things=tuple(_spoil_thing(thing, noise, rng) for thing in said.things)))
