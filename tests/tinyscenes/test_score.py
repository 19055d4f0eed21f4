"""The scorer is exact on clean renders, strict about every clause, and kind about what the prompt leaves open."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from helpers.scene_draws import draw
from tinyscenes.language import parse
from tinyscenes.render import PALETTE, render
from tinyscenes.scenes import (
    COLORS,
    RELATIONS,
    SHAPES,
    TEXTURES,
    Description,
    PlacedObject,
    Scene,
    realize,
    relation_holds,
)
from tinyscenes.score import UNKNOWN, failure_kind, judge, read


def _picture(*objects: PlacedObject) -> np.ndarray:
    return render(Scene(objects))


def _circle(x: int = 8, y: int = 16, color: str = "red", texture: str = "plain", shape: str = "circle") -> PlacedObject:
    return PlacedObject(shape, color, texture, x, y, 5)


def test_reads_every_kind_of_object_anywhere() -> None:
    for shape, color, texture, radius in itertools.product(SHAPES, COLORS, TEXTURES, range(3, 7)):
        for x, y in ((radius + radius % 2, 16), (16, 30 - radius - radius % 2), (14, 18)):
            (found,) = read(_picture(PlacedObject(shape, color, texture, x, y, radius)))
            assert (found.shape, found.color, found.texture) == (shape, color, texture)
            assert max(abs(found.x - x), abs(found.y - y), abs(found.radius - radius)) <= 1


def test_exact_on_clean_renders() -> None:
    """Thousands of scenes, every category."""
    for _, description, scene in draw(300, seed=2):
        image = render(scene)
        verdict = judge(image, description)
        assert verdict.exact and verdict.fraction == 1 and verdict.failed == (), (description, scene, verdict)
        assert failure_kind(image, description) == "none"


def test_small_color_errors_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    verdicts = []
    for _, description, scene in draw(40, seed=3):
        image = render(scene) + rng.normal(0, 12, (32, 32, 3))
        verdicts.append(judge(image.clip(0, 255).astype(np.uint8), description).exact)
    assert np.mean(verdicts) > 0.99


def _changed_attributes(description: Description) -> Iterator[tuple[str, Description]]:
    """Every other value of every spoken attribute, with the clause that must then fail."""
    for index, thing in enumerate(description.things):
        for kind, options in (("color", COLORS), ("texture", TEXTURES), ("shape", SHAPES)):
            current = getattr(thing, kind)
            for other in options:
                if current not in (None, other):
                    yield f"{kind} {index + 1}", description.with_thing(index, replace(thing, **{kind: other}))


def test_every_changed_attribute_fails_its_clause() -> None:
    for _, description, scene in draw(8, seed=4):
        image = render(scene)
        for clause, changed in _changed_attributes(description):
            verdict = judge(image, changed)
            assert not verdict.exact
            alike = len(changed.things) == 2 and changed.things[0].shape == changed.things[1].shape
            if not alike:  # two things of one shape may be blamed either way
                assert verdict.failed == (clause,), (description, changed)


def test_every_changed_count_fails() -> None:
    for _, description, scene in draw(12, seed=5):
        image = render(scene)
        for index, thing in enumerate(description.things):
            for count in {1, 2, 3, 4} - {thing.count}:
                changed = description.with_thing(index, replace(thing, count=count))
                assert not judge(image, changed).exact
                assert failure_kind(image, replace(changed, relation=None)) == "count"


def test_every_changed_relation_fails() -> None:
    tried = 0
    for category, description, scene in draw(40, seed=6):
        if description.relation is None:
            continue
        image = render(scene)
        for relation in RELATIONS:
            truly = relation_holds(relation, *scene.objects)
            verdict = judge(image, replace(description, relation=relation))
            assert verdict.exact == truly
            assert truly or verdict.failed == (relation,)
            assert truly or failure_kind(image, replace(description, relation=relation)) == "relation"
            tried += not truly
        assert category in ("spatial", "complex")
    assert tried > 80


def test_swapped_attributes_fail() -> None:
    for category, description, scene in draw(60, seed=7):
        if category not in ("color", "texture", "spatial", "complex") or any(o.count > 1 for o in description.things):
            continue
        first, second = description.things
        swapped = (
            replace(first, color=second.color, texture=second.texture),
            replace(second, color=first.color, texture=first.texture),
        )
        changed = replace(description, things=swapped, relation=None)
        assert not judge(render(scene), changed).exact
        assert failure_kind(render(scene), changed) == "swap"


def test_a_dropped_thing_leaves_something_else() -> None:
    for _, description, scene in draw(40, seed=8):
        if len(description.things) == 2:
            for kept in description.things:
                verdict = judge(render(scene), Description((kept,)))
                assert verdict.failed == ("nothing else",)


def test_a_missing_object_fails() -> None:
    for _, description, scene in draw(40, seed=9):
        for index in range(len(scene.objects)):
            without = Scene(scene.objects[:index] + scene.objects[index + 1 :])
            verdict = judge(render(without), description)
            assert not verdict.exact and any(clause.startswith("count") for clause in verdict.failed)


def test_nothing_else_may_be_drawn() -> None:
    description = parse("a red circle")
    assert judge(_picture(_circle()), description).exact
    for extra in (_circle(24), _circle(24, color="blue"), _circle(24, shape="cross")):
        verdict = judge(_picture(_circle(), extra), description)
        assert verdict.failed == ("nothing else",) and verdict.fraction == pytest.approx(3 / 4)
    specks = _picture(_circle())
    specks[2, 2] = specks[29, 29] = PALETTE["cyan"]  # a stray pixel is not a thing
    assert judge(specks, description).exact


def test_kind_about_what_the_prompt_leaves_open() -> None:
    pairs = parse("a circle and a cross")
    rng = np.random.default_rng(0)
    for color, other, texture in itertools.product(COLORS, COLORS, TEXTURES):
        image = _picture(_circle(color=color, texture=texture), _circle(24, color=other, shape="cross"))
        assert judge(image, pairs).exact
        assert judge(image, replace(pairs, things=pairs.things[::-1])).exact
    assert judge(_picture(_circle(color="red"), _circle(24, color="blue")), parse("two circles")).exact
    assert judge(_picture(_circle(texture="striped")), parse("a red circle")).exact
    for things in ("three circles and a cross", "two plain circles", "a striped circle above a red circle"):
        assert judge(render(realize(parse(things), rng)), parse(things)).exact


def test_two_things_of_one_shape_are_told_apart_by_their_attributes() -> None:
    image = _picture(_circle(8, color="red"), _circle(24, color="blue"))
    for prompt, exact in (
        ("a red circle and a blue circle", True),
        ("a blue circle and a red circle", True),
        ("a red circle to the left of a blue circle", True),
        ("a blue circle to the left of a red circle", False),
        ("a blue circle to the right of a circle", True),
        ("a circle to the left of a circle", True),
        ("two red circles", False),
        ("a red circle and a red circle", False),
    ):
        assert judge(image, parse(prompt)).exact is exact, prompt


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ("a red circle and a blue cross", "none"),
        ("a red circle", "count"),
        ("a blue circle and a red cross", "swap"),
        ("a green circle and a blue cross", "color"),
        ("a red square and a blue cross", "shape"),
        ("a red circle to the right of a blue cross", "relation"),
        ("a striped red circle and a plain blue cross", "texture"),
        ("two blue circles", "shape"),
    ],
)
def test_failure_kind(prompt: str, kind: str) -> None:
    assert failure_kind(_picture(_circle(), _circle(24, color="blue", shape="cross")), parse(prompt)) == kind


def test_spoiled_drawings() -> None:
    description = parse("a red circle and a blue cross")
    bar = render(Scene(()))
    bar[10:13, 2:28] = PALETTE["red"]  # no silhouette is that long
    assert [found.shape for found in read(bar)] == [UNKNOWN]
    assert failure_kind(bar, description) == "drawing"
    mixed = _picture(_circle())
    mixed[16:, :] = np.where((mixed[16:, :] == PALETTE["red"]).all(-1, keepdims=True), PALETTE["blue"], mixed[16:, :])
    assert [found.shape for found in read(mixed)] == [UNKNOWN]
    assert failure_kind(mixed, parse("a red circle")) == "drawing"
    assert not judge(mixed, parse("a red circle")).exact


def test_any_picture_can_be_judged() -> None:
    rng = np.random.default_rng(0)
    description = parse("two red circles and a blue cross")
    empty, white = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)
    for image in (empty, white, *rng.integers(0, 256, (10, 32, 32, 3), np.uint8)):
        verdict = judge(image, description)
        assert not verdict.exact and 0 <= verdict.fraction < 1
        assert failure_kind(image, description) != "none"
    crowd = _picture(
        *(PlacedObject("circle", "red", "plain", x, y, 3) for x in (4, 12, 20, 28) for y in (4, 12, 20, 28))
    )
    assert len(read(crowd)) == 16 and "nothing else" in judge(crowd, description).failed
