"""Edits of how a thing is named: by a wider word, or as another thing of its class."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .analysis import Analysis, NounPhrase
from .attributes import choose, label
from .lexicon import CLASS_OF, COMPOUNDS, MEMBERS, PLACE_GROUPS, PLURAL_OF, UNCOUNTED, is_alive
from .objects import OWNERS
from .text import Edit, Splice, edit, put, word, words

#: class -> the first, most common, members that can be counted: a thing is exchanged for one of these. Of people no
#: babies: a chef may be a man, but is no baby
_COMMON = {
    name: tuple(member for member in members[: 6 if name == "person" else 20] if member in PLURAL_OF)
    for name, members in MEMBERS.items()
}


def _class_of(a: Analysis, phrase: NounPhrase) -> str | None:
    spoken = [a.tokens[i].key for i in range(phrase.noun, phrase.noun_end - 1)]
    before = a.tokens[phrase.noun - 1].key if phrase.noun > phrase.start else ""
    compound = f"{(spoken or [before])[-1]} {phrase.head}"
    return COMPOUNDS.get(compound) or CLASS_OF.get(phrase.head)


def _renamed(a: Analysis, phrase: NounPhrase, name: str) -> list[Splice] | None:
    """The whole compound noun becomes `name`, in the number of the phrase."""
    if phrase.head in UNCOUNTED or phrase.end != phrase.noun_end or _idiom(a, phrase):
        return None
    start, tokens = phrase.noun, words(PLURAL_OF[name] if phrase.plural else name)
    first = a.tokens[start]
    if f"{a.tokens[start - 1].key} {phrase.head}" in COMPOUNDS and start > phrase.start:
        start -= 1
    if first.text[:1].isupper() and start == 0:
        tokens[0] = word(tokens[0].text[:1].upper() + tokens[0].text[1:])
    return [put(start, phrase.noun_end, tokens)]


def _idiom(a: Analysis, phrase: NounPhrase) -> bool:
    """'jumping rope', 'playing guitar', 'its owner': no thing that another could stand for."""
    if phrase.determiner is not None and a.tokens[phrase.determiner].key in OWNERS and is_alive(phrase.head):
        return True
    bare = phrase.determiner is None and phrase.number is None and not phrase.attributes and not phrase.plural
    return bare and phrase.start > a.start and a.tags[phrase.start - 1] == "verb"


def _told_apart(a: Analysis, phrase: NounPhrase) -> bool:
    """'a map of the world' and 'a block of stone' tie the two nouns together: neither can be another thing."""
    after = a.tokens[phrase.end].key if phrase.end < len(a.tokens) else ""
    bare = phrase.determiner is None and phrase.number is None and not phrase.plural
    return after == "of" or (bare and phrase.start > 0 and a.tokens[phrase.start - 1].key == "of")


def generalize_noun(a: Analysis, rng: np.random.Generator) -> Iterator[Edit]:
    """'a dog' -> 'an animal'."""
    for phrase in a.phrases:
        name = _class_of(a, phrase)
        if name == "place" or _told_apart(a, phrase):
            continue  # 'in the place' says nothing, and may have another preposition
        if name is not None and name != phrase.head and (splices := _renamed(a, phrase, name)):
            yield edit("generalize_noun", f"{label(a, phrase)} -> {name}", *splices)


def change_object(a: Analysis, rng: np.random.Generator) -> Iterator[Edit]:
    """'a dog' -> 'a cat': another thing of the same class."""
    present = {phrase.head for phrase in a.phrases}
    for phrase in a.phrases:
        name = _class_of(a, phrase)
        if name == "place" and phrase.start and a.tokens[phrase.start - 1].key in ("on", "at"):
            continue  # 'on the beach', 'at the zoo', but 'in the kitchen'
        if _told_apart(a, phrase):
            continue
        if name == "place":
            alike = next((group for group in PLACE_GROUPS if phrase.head in group), ())
        else:
            alike = _COMMON.get(name or "", ())
        options = [member for member in alike if member not in present and member != name]
        if not options or phrase.head == name:
            continue
        name = choose(rng, options)
        if splices := _renamed(a, phrase, name):
            yield edit("change_object", f"{label(a, phrase)} -> {name}", *splices)
