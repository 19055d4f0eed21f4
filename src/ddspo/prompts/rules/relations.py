"""Edits of how things stand to each other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .analysis import Analysis, NounPhrase
from .attributes import choose
from .lexicon import CLASS_OF, is_alive
from .objects import disagrees, exchanged
from .text import Edit, edit, put, said, words
from .words import BACKDROPS, RELATIONS, SYMMETRIC

#: bare prepositions that may be exchanged between two known things
_BARE = {"on": ("under", "next to", "behind"), "under": ("on", "next to", "behind"), "in": ("next to", "behind")}


def _around(a: Analysis, start: int, end: int) -> tuple[NounPhrase, NounPhrase] | None:
    """The phrases that a relation at [start, end) connects; a verb may stand between the first and it.

    None where there are not two, or the second is no place: 'chatting over lunch', 'under the stars'.
    """
    after = [group[0] for group in a.groups if group[0].start == end]
    before = [group[-1] for group in a.groups if group[-1].end <= start]
    if not after or not before:
        return None
    if after[0].head in BACKDROPS:
        return None
    between = range(before[-1].end, start)
    return (before[-1], after[0]) if all(a.tags[i] in ("verb", "auxiliary", "adverb") for i in between) else None


def _bare_relations(a: Analysis) -> Iterator[tuple[int, int, str]]:
    """'on' between things that are both known, so that 'on the way' stays as it is."""
    for index in range(a.start, a.end):
        key = a.tokens[index].key
        if key in _BARE and not any(s <= index < e for s, e, _ in a.relations):
            pair = _around(a, index, index + 1)
            worn = pair is not None and CLASS_OF.get(pair[1].head) == "garment"
            if pair is not None and not worn and all(_solid(phrase) for phrase in pair):
                yield index, index + 1, key


def _solid(phrase: NounPhrase) -> bool:
    return CLASS_OF.get(phrase.head, "place") != "place"


def _all(a: Analysis) -> list[tuple[int, int, str]]:
    return [*a.relations, *_bare_relations(a)]


def reverse_relation(a: Analysis, rng: np.random.Generator) -> Iterator[Edit]:
    """'a cup to the left of a plate' -> 'a cup to the right of a plate'."""
    for start, end, phrase in a.relations:
        opposite = RELATIONS[phrase][0]
        if opposite is not None and _around(a, start, end) is not None:
            yield edit("reverse_relation", f"{phrase} -> {opposite}", put(start, end, words(opposite)))


def change_relation(a: Analysis, rng: np.random.Generator) -> Iterator[Edit]:
    """'a cup above a plate' -> 'a cup to the right of a plate'."""
    for start, end, phrase in _all(a):
        options = _BARE[phrase] if phrase in _BARE else RELATIONS[phrase][1]
        if _around(a, start, end) is not None:
            other = choose(rng, options)
            yield edit("change_relation", f"{phrase} -> {other}", put(start, end, words(other)))


def swap_places(a: Analysis, rng: np.random.Generator) -> Iterator[Edit]:
    """'a cup above a plate' -> 'a plate above a cup'."""
    for start, end, phrase in _all(a):
        pair = _around(a, start, end)
        if pair is None or phrase in SYMMETRIC or pair[0].plural != pair[1].plural or disagrees(a, *pair):
            continue
        if (pair[0].start != a.start and a.groups[0][0] is not pair[0]) or pair[0].head == pair[1].head:
            continue
        if any(len(group) > 1 and set(group) & set(pair) for group in a.groups):
            continue
        if is_alive(pair[0].head) != is_alive(pair[1].head) and "verb" in a.tags[pair[0].end : start]:
            continue  # 'a tree meditating under a person'
        if any(p.determiner is None and p.number is None for p in pair):
            continue
        change = f"{said(a.tokens[pair[0].start : pair[0].end])} <-> {said(a.tokens[pair[1].start : pair[1].end])}"
        yield exchanged("swap_objects", change, a, *pair)


def drop_relation(a: Analysis, rng: np.random.Generator) -> Iterator[Edit]:
    """'a cup above a plate' -> 'a cup and a plate'; only where nothing else hangs on it."""
    for start, end, _ in _all(a):
        pair = _around(a, start, end)
        if pair is not None and pair[0].start == a.start and pair[1].end == a.end:
            said_before = said(a.tokens[pair[0].end : pair[1].start])
            yield edit("drop_relation", f"{said_before} -> and", put(pair[0].end, pair[1].start, words("and")))
