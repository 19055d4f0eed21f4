"""What descriptions say and what scenes hold."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from helpers.scene_draws import draw
from tinyscenes.scenes import (
    CANVAS_PX,
    CATEGORIES,
    MAX_COUNT,
    RELATIONS,
    Description,
    PlacedObject,
    Thing,
    complete,
    realize,
    relation_holds,
    sample_description,
    sample_single,
)

OPPOSITE = {"to the left of": "to the right of", "above": "below"}
OPPOSITE |= {right: left for left, right in OPPOSITE.items()}


def _at(x: int, y: int) -> PlacedObject:
    return PlacedObject("circle", "red", "plain", x, y, 4)


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_category_says_what_it_is_about(category: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        description = sample_description(rng, category)  # type: ignore[arg-type]
        things = description.things
        spoken = {kind for kind in ("color", "texture") if all(getattr(thing, kind) is not None for thing in things)}
        assert (description.relation is not None) <= (len(things) == 2 and all(thing.count == 1 for thing in things))
        if category == "numeracy":
            assert len(things) == 1 and 2 <= things[0].count <= MAX_COUNT and spoken == {"color"}
            continue
        first, second = things
        assert first.shape != second.shape
        if category == "shape":  # one color, so that only the shapes tell
            assert first.color == second.color is not None
        else:
            assert all(getattr(first, kind) != getattr(second, kind) for kind in spoken)
        if category == "complex":
            both = spoken == {"color", "texture"} and description.relation is not None
            counted = spoken == {"color"} and first.count in (2, 3) and second.count == 1
            assert both != counted
            continue
        assert all(thing.count == 1 for thing in things)
        assert (description.relation is not None) == (category == "spatial")
        said = {
            "color": {"color"},
            "shape": {"color"},
            "texture": {"texture"},
            "spatial": {"color"},
            "two_objects": set(),
        }
        assert spoken == said[category]


def test_a_single_thing_is_single() -> None:
    rng = np.random.default_rng(0)
    singles = [sample_single(rng) for _ in range(100)]
    assert all(len(single.things) == 1 and single.things[0].count == 1 for single in singles)
    assert {single.things[0].texture is None for single in singles} == {True, False}


def test_scenes_hold_what_was_described() -> None:
    """Counted on the scene itself, without renderer and scorer."""
    for _, description, scene in draw(300):
        wanted = [thing for thing in description.things for _ in range(thing.count)]
        assert len(scene.objects) == len(wanted)
        for thing, placed in zip(wanted, scene.objects, strict=True):
            assert placed.shape == thing.shape
            assert thing.color in (None, placed.color)
            assert placed.texture == (thing.texture or "plain")
        if description.relation is not None:
            assert relation_holds(description.relation, *scene.objects)


def test_objects_are_whole_and_apart() -> None:
    for _, _, scene in draw(300, seed=1):
        for placed in scene.objects:
            assert placed.radius <= min(placed.x, placed.y)
            assert max(placed.x, placed.y) + placed.radius < CANVAS_PX
        for one, other in itertools.combinations(scene.objects, 2):
            gap = max(abs(one.x - other.x), abs(one.y - other.y)) - one.radius - other.radius
            assert gap >= 2  # at least one row or column of background lies between


def test_open_attributes_are_settled_once_per_thing() -> None:
    description = Description((Thing("circle", count=3), Thing("cross", "red", "striped")))
    colors = Counter()
    for seed in range(60):
        circle, cross = complete(description, np.random.default_rng(seed)).things
        assert circle.texture == "plain" and cross == description.things[1]
        colors[circle.color] += 1
    assert len(colors) == 6
    scene = realize(description, np.random.default_rng(0))
    assert len({placed.color for placed in scene.objects[:3]}) == 1


def test_drawing_is_reproducible() -> None:
    assert list(draw(5, seed=3)) == list(draw(5, seed=3))
    assert list(draw(5, seed=3)) != list(draw(5, seed=4))


@pytest.mark.parametrize(
    ("relation", "dx", "dy", "holds"),
    [
        ("to the left of", -1, 0, True),
        ("to the left of", 0, 0, False),
        ("to the left of", 1, 0, False),
        ("to the left of", -5, 5, True),  # a diagonal is both
        ("to the left of", -5, 6, False),
        ("to the left of", -5, -6, False),
        ("above", 0, -1, True),
        ("above", 5, -5, True),
        ("above", 6, -5, False),
        ("above", 0, 1, False),
        ("below", 0, 1, True),
        ("to the right of", 8, 7, True),
    ],
)
def test_relation_boundaries(relation: str, dx: int, dy: int, holds: bool) -> None:
    assert relation_holds(relation, _at(16 + dx, 16 + dy), _at(16, 16)) is holds


def test_relations_exhaustively() -> None:
    center = _at(0, 0)
    for dx, dy in itertools.product(range(-12, 13), repeat=2):
        other = _at(dx, dy)
        true = [relation for relation in RELATIONS if relation_holds(relation, other, center)]
        for relation in RELATIONS:
            assert relation_holds(relation, other, center) == relation_holds(OPPOSITE[relation], center, other)
        assert len(true) == (0 if dx == dy == 0 else 2 if abs(dx) == abs(dy) else 1)


def test_with_thing() -> None:
    description = Description((Thing("circle"), Thing("cross")), "above")
    changed = description.with_thing(1, Thing("square", "red"))
    assert changed == replace(description, things=(Thing("circle"), Thing("square", "red")))
