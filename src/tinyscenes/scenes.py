"""Scenes as data: what a prompt says (`Description`) and what a picture holds (`Scene`).

Everything else in this package derives from these two: the language speaks a description, the renderer draws a scene,
the scorer reads a picture back into objects and compares them with the description, clause by clause.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

CANVAS_PX = 32

Category = Literal["color", "shape", "texture", "spatial", "numeracy", "two_objects", "complex"]
CATEGORIES: tuple[Category, ...] = get_args(Category)

SHAPES = ("circle", "square", "triangle", "cross")
COLORS = ("red", "green", "blue", "yellow", "magenta", "cyan")
TEXTURES = ("plain", "striped", "checkered")
#: relation -> unit step from the second thing to the first, in pixels (x grows rightwards, y grows downwards)
RELATIONS: dict[str, tuple[int, int]] = {
    "to the left of": (-1, 0),
    "to the right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}
MAX_COUNT = 4


@dataclass(frozen=True)
class Thing:
    """One noun phrase: a shape, how many of it, and attributes (None: the prompt does not say, so any will do)."""

    shape: str
    color: str | None = None
    texture: str | None = None
    count: int = 1


@dataclass(frozen=True)
class Description:
    """What a prompt claims: one or two things and, between two single things, perhaps a relation."""

    things: tuple[Thing, ...]
    relation: str | None = None

    def with_thing(self, index: int, thing: Thing) -> Description:
        """The same description with the thing at `index` replaced."""
        return replace(self, things=(*self.things[:index], thing, *self.things[index + 1 :]))


@dataclass(frozen=True)
class PlacedObject:
    """One drawn object: center and radius in pixels; the silhouette spans center ± radius."""

    shape: str
    color: str
    texture: str
    x: int
    y: int
    radius: int


@dataclass(frozen=True)
class Scene:
    """What a picture holds."""

    objects: tuple[PlacedObject, ...]


def _pick(rng: np.random.Generator, options: tuple[str, ...], excluding: tuple[str | None, ...] = ()) -> str:
    allowed = [option for option in options if option not in excluding]
    return allowed[int(rng.integers(len(allowed)))]


def _two_things(rng: np.random.Generator, *, color: bool, texture: bool) -> tuple[Thing, Thing]:
    """Two things that differ in shape and in every spoken attribute, so that swapping any changes the meaning."""
    first = Thing(_pick(rng, SHAPES), _pick(rng, COLORS) if color else None, _pick(rng, TEXTURES) if texture else None)
    second = Thing(
        _pick(rng, SHAPES, (first.shape,)),
        _pick(rng, COLORS, (first.color,)) if color else None,
        _pick(rng, TEXTURES, (first.texture,)) if texture else None,
    )
    return first, second


def _color(rng: np.random.Generator) -> Description:
    return Description(_two_things(rng, color=True, texture=False))


def _shape(rng: np.random.Generator) -> Description:
    shared = _pick(rng, COLORS)
    first, second = _two_things(rng, color=False, texture=False)
    return Description((replace(first, color=shared), replace(second, color=shared)))


def _texture(rng: np.random.Generator) -> Description:
    return Description(_two_things(rng, color=False, texture=True))


def _spatial(rng: np.random.Generator) -> Description:
    return Description(_two_things(rng, color=True, texture=False), _pick(rng, tuple(RELATIONS)))


def _numeracy(rng: np.random.Generator) -> Description:
    return Description((Thing(_pick(rng, SHAPES), _pick(rng, COLORS), count=int(rng.integers(2, MAX_COUNT + 1))),))


def _two_objects(rng: np.random.Generator) -> Description:
    return Description(_two_things(rng, color=False, texture=False))


def _complex(rng: np.random.Generator) -> Description:
    """Half textures and a relation at once, half a count beside a second thing."""
    if rng.random() < 0.5:
        return Description(_two_things(rng, color=True, texture=True), _pick(rng, tuple(RELATIONS)))
    first, second = _two_things(rng, color=True, texture=False)
    return Description((replace(first, count=int(rng.integers(2, 4))), second))


_SAMPLERS: dict[Category, Callable[[np.random.Generator], Description]] = {
    "color": _color,
    "shape": _shape,
    "texture": _texture,
    "spatial": _spatial,
    "numeracy": _numeracy,
    "two_objects": _two_objects,
    "complex": _complex,
}


def sample_description(rng: np.random.Generator, category: Category) -> Description:
    """Draw what a prompt of this category says."""
    return _SAMPLERS[category](rng)


def sample_single(rng: np.random.Generator) -> Description:
    """Draw one thing alone; part of the base's training data, in no evaluated category."""
    texture = _pick(rng, TEXTURES) if rng.random() < 0.5 else None
    return Description((Thing(_pick(rng, SHAPES), _pick(rng, COLORS), texture),))


def complete(description: Description, rng: np.random.Generator) -> Description:
    """Settle what the prompt leaves open: an unsaid color is drawn at random, an unsaid texture is plain."""
    things = tuple(
        replace(thing, color=thing.color or _pick(rng, COLORS), texture=thing.texture or "plain")
        for thing in description.things
    )
    return replace(description, things=things)


def relation_holds(relation: str, first: PlacedObject, second: PlacedObject) -> bool:
    """Whether `first` stands in `relation` to `second`: right side, and mostly along that axis."""
    step_x, step_y = RELATIONS[relation]
    dx, dy = first.x - second.x, first.y - second.y
    along, across = (dx * step_x, dy) if step_x else (dy * step_y, dx)
    return along > 0 and along >= abs(across)


def _try_layout(parts: list[Thing], relation: str | None, rng: np.random.Generator) -> Scene | None:
    radii = rng.integers(4, 7, len(parts)) if len(parts) <= 2 else rng.integers(3, 5, len(parts))
    objects: list[PlacedObject] = []
    for thing, radius in zip(parts, map(int, radii), strict=True):
        # Even centers: pixel art on a coarser grid leaves less for a small network to spend itself on.
        x, y = (2 * int(rng.integers((radius + 2) // 2, (CANVAS_PX - radius) // 2)) for _ in range(2))
        if any(max(abs(x - o.x), abs(y - o.y)) <= radius + o.radius + 1 for o in objects):
            return None
        assert thing.color is not None and thing.texture is not None
        objects.append(PlacedObject(thing.shape, thing.color, thing.texture, x, y, radius))
    if relation is not None and not relation_holds(relation, objects[0], objects[1]):
        return None
    return Scene(tuple(objects))


def realize(description: Description, rng: np.random.Generator) -> Scene:
    """Draw a scene in which the description is true: open attributes settled, objects placed apart by rejection."""
    whole = complete(description, rng)
    parts = [thing for thing in whole.things for _ in range(thing.count)]
    while True:
        scene = _try_layout(parts, description.relation, rng)
        if scene is not None:
            return scene
