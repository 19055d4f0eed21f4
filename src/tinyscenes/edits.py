"""Exact degradation: edits of what a prompt says, so that every variant differs in meaning exactly as its kind names.

Meaning is what a picture must show: the order of things joined by 'and' is none, 'A above B' is 'B below A', and an
unsaid texture is the plain one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from .language import speak_thing
from .scenes import COLORS, MAX_COUNT, RELATIONS, SHAPES, TEXTURES, Description, Thing

Edit = tuple[Description, str]
_OPPOSITE = {
    relation: other for relation, (x, y) in RELATIONS.items() for other, step in RELATIONS.items() if step == (-x, -y)
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


def swap_attributes(description: Description) -> Description:
    """Exchange color and texture between the two things."""
    first, second = description.things
    swapped = (
        replace(first, color=second.color, texture=second.texture),
        replace(second, color=first.color, texture=first.texture),
    )
    return replace(description, things=swapped)


def _swap_attributes(description: Description) -> Iterator[Edit]:
    if len(description.things) == 2:
        first, second = description.things
        yield swap_attributes(description), f"{_attributes(first)} <-> {_attributes(second)}"


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


def distinct_edits(description: Description, kinds: tuple[str, ...] = tuple(EDITS)) -> dict[str, list[Edit]]:
    """Every edit by kind whose meaning is neither the description's own nor that of an earlier edit."""
    seen = {meaning(description)}
    found: dict[str, list[Edit]] = {}
    for kind in kinds:
        for edited, change in EDITS[kind](description):
            if meaning(edited) not in seen:
                seen.add(meaning(edited))
                found.setdefault(kind, []).append((edited, change))
    return found
