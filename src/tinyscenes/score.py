"""Read a picture back into objects and judge a description clause by clause.

The verdict is exact on clean renders (tested over thousands of scenes) and tolerant of the small color errors that a
VAE or a sampler leaves: every pixel goes to its nearest palette color, every blob to its best-matching silhouette.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, islice

import numpy as np
from scipy import ndimage

from .render import BACKGROUND, PALETTE, WHITE, silhouette, texture_pattern
from .scenes import COLORS, SHAPES, TEXTURES, Description, PlacedObject, Thing, relation_holds

#: what `read` reports for a blob that matches no silhouette
UNKNOWN = "unknown"

_CLASSES = np.array([*(PALETTE[color] for color in COLORS), WHITE, BACKGROUND], np.float32)
_WHITE_CLASS, _BACKGROUND_CLASS = len(COLORS), len(COLORS) + 1
_MIN_PIXELS = 8
_MIN_OVERLAP = 0.7
_TEMPLATE_SIZE = 13
_MAX_ASSIGNMENTS = 64  # more than five objects allow; a picture of more is wrong under any assignment


def _normalized(mask: np.ndarray) -> np.ndarray:
    """The mask's bounding box stretched to a fixed square, so that shapes compare at any size."""
    height, width = mask.shape
    rows = ((np.arange(_TEMPLATE_SIZE) + 0.5) * height / _TEMPLATE_SIZE).astype(int)
    columns = ((np.arange(_TEMPLATE_SIZE) + 0.5) * width / _TEMPLATE_SIZE).astype(int)
    return mask[rows][:, columns]


def _crop(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@cache
def _templates() -> tuple[tuple[str, ...], np.ndarray]:
    pairs = [(shape, _normalized(_crop(silhouette(shape, radius)))) for shape in SHAPES for radius in range(3, 7)]
    return tuple(shape for shape, _ in pairs), np.stack([mask for _, mask in pairs])


def _classify_shape(mask: np.ndarray) -> str:
    height, width = mask.shape
    if not 0.6 < height / width < 1.67 or max(height, width) > 15:
        return UNKNOWN
    names, masks = _templates()
    mine = _normalized(mask)
    overlap = (masks & mine).sum((1, 2)) / (masks | mine).sum((1, 2))
    best = int(overlap.argmax())
    return names[best] if overlap[best] >= _MIN_OVERLAP else UNKNOWN


def _classify_texture(mask: np.ndarray, white: np.ndarray, window: tuple[slice, slice]) -> str:
    agreement = [(mask & (texture_pattern(texture)[window] == ~white)).sum() / mask.sum() for texture in TEXTURES]
    return TEXTURES[int(np.argmax(agreement))]


def read(image: np.ndarray) -> list[PlacedObject]:
    """Every object in a picture, uint8 [32, 32, 3]; blobs that match no silhouette have shape 'unknown'."""
    distance = ((image[:, :, None].astype(np.float32) - _CLASSES) ** 2).sum(-1)
    classes = distance.argmin(-1)
    labels, _ = ndimage.label(classes != _BACKGROUND_CLASS)
    objects = []
    for label, window in enumerate(ndimage.find_objects(labels), 1):
        mask = labels[window] == label
        inside = classes[window][mask]
        colored = inside[inside != _WHITE_CLASS]
        if mask.sum() < _MIN_PIXELS:
            continue
        votes = np.bincount(colored, minlength=len(COLORS))
        # A blob of two colors is two things drawn into one another: whatever its outline, no clause should pass on it.
        mixed = len(colored) == 0 or votes.max() < 0.8 * len(colored)
        height, width = mask.shape
        objects.append(
            PlacedObject(
                shape=UNKNOWN if mixed else _classify_shape(mask),
                color=COLORS[int(votes.argmax())],
                texture=_classify_texture(mask, classes[window] == _WHITE_CLASS, window),
                x=(window[1].start + window[1].stop) // 2,
                y=(window[0].start + window[0].stop) // 2,
                radius=max(height, width) // 2,
            )
        )
    return objects


@dataclass(frozen=True)
class Verdict:
    """Clauses of a description and whether each is true of a picture; `exact` when all are."""

    clauses: dict[str, bool]

    @property
    def exact(self) -> bool:
        """Whether every clause is true."""
        return all(self.clauses.values())

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the clauses that are false, in the order of the prompt."""
        return tuple(name for name, holds in self.clauses.items() if not holds)

    @property
    def fraction(self) -> float:
        """Share of true clauses, 0 to 1."""
        return sum(self.clauses.values()) / len(self.clauses)


def _thing_clauses(index: int, thing: Thing, found: list[PlacedObject]) -> dict[str, bool]:
    """Clauses of one thing, given the objects assigned to it."""
    name = f"{index + 1}"
    clauses = {
        f"count {name}": len(found) == thing.count,
        f"shape {name}": bool(found) and all(o.shape == thing.shape for o in found),
    }
    if thing.color is not None:
        clauses[f"color {name}"] = bool(found) and all(o.color == thing.color for o in found)
    if thing.texture is not None:
        clauses[f"texture {name}"] = bool(found) and all(o.texture == thing.texture for o in found)
    return clauses


def _judge_assignment(description: Description, groups: list[list[PlacedObject]], total: int) -> dict[str, bool]:
    clauses: dict[str, bool] = {}
    for index, (thing, found) in enumerate(zip(description.things, groups, strict=True)):
        clauses |= _thing_clauses(index, thing, found)
    if description.relation is not None:
        first, second = groups
        both = bool(first and second)
        clauses[description.relation] = both and relation_holds(description.relation, first[0], second[0])
    clauses["nothing else"] = sum(map(len, groups)) == total
    return clauses


def _assignments(things: tuple[Thing, ...], objects: list[PlacedObject]) -> Iterator[list[list[PlacedObject]]]:
    """Every way to give each thing as many objects as it asks for, or all that are left."""
    if not things:
        yield []
        return
    for chosen in combinations(range(len(objects)), min(things[0].count, len(objects))):
        rest = [thing for index, thing in enumerate(objects) if index not in chosen]
        for others in _assignments(things[1:], rest):
            yield [[objects[index] for index in chosen], *others]


def _merit(clauses: dict[str, bool]) -> tuple[int, int]:
    """True clauses; at a tie those about shape decide: with colors swapped, colors are to blame and not shapes."""
    return sum(clauses.values()), sum(holds for name, holds in clauses.items() if name.startswith("shape"))


def judge(image: np.ndarray, description: Description) -> Verdict:
    """Judge a picture, uint8 [32, 32, 3]: is each clause true, under the kindest assignment of objects to things?

    Unspoken attributes are free. Anything drawn besides what the prompt asks for fails the clause 'nothing else'.
    """
    objects = read(image)
    candidates = (
        _judge_assignment(description, groups, len(objects))
        for groups in islice(_assignments(description.things, objects), _MAX_ASSIGNMENTS)
    )
    return Verdict(max(candidates, key=_merit))


def failure_kind(image: np.ndarray, description: Description) -> str:
    """One word for what went wrong: 'none', 'drawing', 'count', 'swap', 'relation', 'shape', 'color' or 'texture'."""
    verdict = judge(image, description)
    if verdict.exact:
        return "none"
    objects = read(image)
    if any(o.shape == UNKNOWN for o in objects):
        return "drawing"
    wanted = [thing for thing in description.things for _ in range(thing.count)]
    if len(objects) != len(wanted):
        return "count"
    failed = {name.split()[0] for name in verdict.failed}
    if failed <= {"to", "above", "below"}:
        return "relation"
    if Counter(o.shape for o in objects) != Counter(thing.shape for thing in wanted):
        return "shape"
    for kind in ("color", "texture"):
        spoken = [getattr(thing, kind) for thing in wanted]
        drawn = [getattr(o, kind) for o in objects]
        if None in spoken:
            continue
        if Counter(_bound(objects, drawn)) != Counter(_bound(wanted, spoken)):
            return "swap" if Counter(drawn) == Counter(spoken) else kind
    return "color" if "color" in failed else "texture" if "texture" in failed else "shape"


def _bound(things: Sequence[PlacedObject | Thing], values: list[str]) -> list[tuple[str, str]]:
    return [(thing.shape, value) for thing, value in zip(things, values, strict=True)]
