"""Exact degradation of tinyscenes prompts: edits of the description, not of the words.

Every variant differs from its prompt in meaning, in exactly the way that its kind says. Meaning is what a picture must
show: the order of things joined by 'and' is none, 'A above B' is 'B below A', and an unsaid texture is the plain one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from tinyscenes.language import PromptError, parse, speak, speak_thing
from tinyscenes.scenes import COLORS, MAX_COUNT, RELATIONS, SHAPES, TEXTURES, Description, Thing

from ..errors import UserError
from .variants import UnusableError, Variant

Edit = tuple[Description, str]
_OPPOSITE = {
    relation: other
    for relation, (x, y) in RELATIONS.items()
    for other, step in RELATIONS.items()
    if step == (-x, -y)
}


def meaning(description: Description) -> tuple[object, ...]:
    """A value that two descriptions share exactly when the same pictures satisfy both."""
    things = tuple((t.count, t.texture or "plain", t.color or "", t.shape) for t in description.things)
    if description.relation is None:
        return (tuple(sorted(things)), None)
    # Of a relation and its opposite one is spelled: 'left' and 'above' are the negative steps.
    if sum(RELATIONS[description.relation]) > 0:
        return (things[::-1], _OPPOSITE[description.relation])
    return (things, description.relation)


def _per_thing(description: Description, edits: Callable[[Thing], Iterator[tuple[Thing, str]]]) -> Iterator[Edit]:
    for index, thing in enumerate(description.things):
        for edited, change in edits(thing):
            place = f" ({thing.shape})" if edited.shape == thing.shape else ""
            yield description.with_thing(index, edited), change + place


def _drop_color(description: Description) -> Iterator[Edit]:
    def edits(thing: Thing) -> Iterator[tuple[Thing, str]]:
        if thing.color is not None:
            yield replace(thing, color=None), f"- {thing.color}"

    yield from _per_thing(description, edits)


def _drop_texture(description: Description) -> Iterator[Edit]:
    def edits(thing: Thing) -> Iterator[tuple[Thing, str]]:
        if thing.texture is not None:
            yield replace(thing, texture=None), f"- {thing.texture}"

    yield from _per_thing(description, edits)


def _drop_thing(description: Description) -> Iterator[Edit]:
    if len(description.things) == 2:
        for kept, dropped in (description.things, description.things[::-1]):
            yield Description((kept,)), f"- {speak_thing(dropped)}"


def _drop_relation(description: Description) -> Iterator[Edit]:
    if description.relation is not None:
        yield replace(description, relation=None), f"{description.relation} -> and"


def _swap_attributes(description: Description) -> Iterator[Edit]:
    if len(description.things) != 2:
        return
    first, second = description.things
    swapped = (
        replace(first, color=second.color, texture=second.texture),
        replace(second, color=first.color, texture=first.texture),
    )
    yield replace(description, things=swapped), f"{_attributes(first)} <-> {_attributes(second)}"


def _attributes(thing: Thing) -> str:
    return " ".join(word for word in (thing.texture, thing.color) if word) or "(nothing)"


def _change_relation(description: Description) -> Iterator[Edit]:
    if description.relation is not None:
        for other in RELATIONS:
            if other not in (description.relation, _OPPOSITE[description.relation]):
                yield replace(description, relation=other), f"{description.relation} -> {other}"


def _reverse_relation(description: Description) -> Iterator[Edit]:
    if description.relation is not None:
        opposite = _OPPOSITE[description.relation]
        yield replace(description, relation=opposite), f"{description.relation} -> {opposite}"


def _change_count(description: Description) -> Iterator[Edit]:
    def edits(thing: Thing) -> Iterator[tuple[Thing, str]]:
        if thing.count > 1:
            for count in range(1, MAX_COUNT + 1):
                yield replace(thing, count=count), f"{thing.count} -> {count}"

    yield from _per_thing(description, edits)


def _change_color(description: Description) -> Iterator[Edit]:
    def edits(thing: Thing) -> Iterator[tuple[Thing, str]]:
        if thing.color is not None:
            for color in COLORS:
                yield replace(thing, color=color), f"{thing.color} -> {color}"

    yield from _per_thing(description, edits)


def _change_texture(description: Description) -> Iterator[Edit]:
    def edits(thing: Thing) -> Iterator[tuple[Thing, str]]:
        if thing.texture is not None:
            for texture in TEXTURES:
                yield replace(thing, texture=texture), f"{thing.texture} -> {texture}"

    yield from _per_thing(description, edits)


def _change_shape(description: Description) -> Iterator[Edit]:
    def edits(thing: Thing) -> Iterator[tuple[Thing, str]]:
        for shape in SHAPES:
            yield replace(thing, shape=shape), f"{thing.shape} -> {shape}"

    yield from _per_thing(description, edits)


#: kind -> every edit of that kind; edits that leave the meaning as it was are dropped afterwards
EDITS: dict[str, Callable[[Description], Iterator[Edit]]] = {
    "drop_color": _drop_color,
    "drop_texture": _drop_texture,
    "drop_thing": _drop_thing,
    "drop_relation": _drop_relation,
    "swap_attributes": _swap_attributes,
    "change_relation": _change_relation,
    "reverse_relation": _reverse_relation,
    "change_count": _change_count,
    "change_color": _change_color,
    "change_texture": _change_texture,
    "change_shape": _change_shape,
}


class ScenesDegrader:
    """Draws edits of a tinyscenes prompt: kinds in random order, one edit of each in turn, until there are enough.

    So a mixture is balanced over the kinds that a prompt allows, however many edits each of them has.
    """

    name = "scenes"

    def __init__(self, kinds: tuple[str, ...] = ()) -> None:
        unknown = [kind for kind in kinds if kind not in EDITS]
        if unknown:
            raise UserError(f"degradation.kinds: '{unknown[0]}' is unknown to 'scenes'; known: {', '.join(EDITS)}")
        self.kinds = kinds or tuple(EDITS)

    def edits(self, prompt: str) -> dict[str, list[Variant]]:
        """Every valid variant of `prompt` by kind, each meaning once.

        Raises:
            UnusableError: not a tinyscenes prompt.
        """
        try:
            original = parse(prompt)
        except PromptError as error:
            raise UnusableError("not a tinyscenes prompt") from error
        seen = {meaning(original)}
        found: dict[str, list[Variant]] = {}
        for kind in self.kinds:
            for edited, change in EDITS[kind](original):
                if meaning(edited) not in seen:
                    seen.add(meaning(edited))
                    found.setdefault(kind, []).append(Variant(speak(edited), kind, change))
        return found

    def degrade(self, prompt: str, rng: np.random.Generator, variants: int) -> list[Variant]:
        """Up to `variants` distinct edits.

        Raises:
            UnusableError: not a tinyscenes prompt, or none of the kinds applies to it.
        """
        found = self.edits(prompt)
        if not found:
            raise UnusableError("none of the kinds applies")
        columns = [[group[i] for i in rng.permutation(len(group))] for group in found.values()]
        columns = [columns[i] for i in rng.permutation(len(columns))]
        rows = range(max(map(len, columns)))
        return [column[row] for row in rows for column in columns if row < len(column)][:variants]
