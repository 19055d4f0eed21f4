"""Edits of what is said about one thing: its attributes, its number, its name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .analysis import Analysis, NounPhrase
from .lexicon import CLASS_OF, COMPOUNDS, MEMBERS, PLURAL_OF, UNCOUNTED
from .text import Edit, Splice, Token, cut, edit, put, said, word, words
from .words import ATTRIBUTE_CLASS, ATTRIBUTES, NUMBER_WORDS, NUMBERS, OPPOSITES

_CHANGEABLE = ("color", "material", "shape", "texture")
_SYNONYMS = (
    "gray grey silver",
    "gold golden yellow",
    "round circular spherical oval oblong",
    "fabric cotton silk velvet wool woolen denim linen",
    "metal metallic",
    "square cubic rectangular",
)
_MAX_COUNT = 10
#: a thing is exchanged for one of the first, most common, members of its class
_COMMON = 20
#: man, woman, boy, girl, child, baby: whoever does a job may be a man, but a chef is no baby
_COMMON_PEOPLE = 7


def choose(rng: np.random.Generator, options: Sequence[str]) -> str:
    """One of the options."""
    return options[int(rng.integers(len(options)))]


def label(a: Analysis, phrase: NounPhrase) -> str:
    """The noun of a phrase, to tell in a change which one is meant."""
    return said(a.tokens[phrase.noun : phrase.noun_end])


def _cut_attribute(a: Analysis, phrase: NounPhrase, index: int) -> Splice:
    """One attribute with the comma that separates it from the next, or from the one before when it is the last."""
    start, end = phrase.attributes[index]
    if end < phrase.noun and a.tokens[end].text == ",":
        end += 1
    elif index and a.tokens[start - 1].text == ",":
        start -= 1
    return cut(start, end)


def drop_attribute(a: Analysis, rng: np.random.Generator) -> Iterator[Edit]:
    """'a red car' -> 'a car'."""
    for phrase in a.phrases:
        for index, (start, end) in enumerate(phrase.attributes):
            change = f"- {said(a.tokens[start:end])} ({label(a, phrase)})"
            yield edit("drop_attribute", change, _cut_attribute(a, phrase, index))


def _other_attribute(key: str, rng: np.random.Generator) -> str | None:
    if key in OPPOSITES:
        return OPPOSITES[key]
    if ATTRIBUTE_CLASS.get(key) in _CHANGEABLE:
        # The first words of each class are the plainest ones.
        options = [other for other in ATTRIBUTES[ATTRIBUTE_CLASS[key]][:12] if not _alike(other, key)]
        return choose(rng, options)
    return None


def _alike(one: str, other: str) -> bool:
    return one == other or any(one in group and other in group for group in _SYNONYMS)


def change_attribute(a: Analysis, rng: np.random.Generator) -> Iterator[Edit]:
    """'a red car' -> 'a blue car'; sizes and the like become their opposites."""
    for phrase in a.phrases:
        taken = {a.tokens[i].key for start, end in phrase.attributes for i in range(start, end)}
        for start, end in phrase.attributes:
            other = _other_attribute(a.tokens[end - 1].key, rng) if end == start + 1 else None
            if other is not None and other not in taken:
                token = a.tokens[start]
                change = f"{token.key} -> {other} ({label(a, phrase)})"
                yield edit("change_attribute", change, put(start, end, [token.saying(other)]))


def swap_attributes(a: Analysis, rng: np.random.Generator) -> Iterator[Edit]:
    """'a red car and a blue bus' -> 'a blue car and a red bus'; an attribute of one alone moves to the other."""
    for i, one in enumerate(a.phrases):
        for two in a.phrases[i + 1 :]:
            (s1, e1), (s2, e2) = one.attribute_span, two.attribute_span
            first, second = a.tokens[s1:e1], a.tokens[s2:e2]
            same_thing = (one.head, one.plural) == (two.head, two.plural)
            if same_thing or [t.key for t in first] == [t.key for t in second]:
                continue
            if not (first and second) and (one.determiner is None or two.determiner is None):
                continue
            change = f"{said(first) or '(none)'} ({label(a, one)}) <-> {said(second) or '(none)'} ({label(a, two)})"
            yield edit("swap_attributes", change, put(s1, e1, _spaced(second)), put(s2, e2, _spaced(first)))


def _spaced(tokens: Sequence[Token]) -> list[Token]:
    """Tokens for a place inside the text: the first one after a blank."""
    return [Token(" ", tokens[0].text, tokens[0].key), *tokens[1:]] if tokens else []


def _value(token: Token) -> int | None:
    if token.key.isascii() and token.key.isdigit():
        return int(token.key)
    return NUMBERS.get(token.key)


def _spelled(count: int, like: Token) -> Token:
    return like.saying(str(count) if like.key.isdigit() else NUMBER_WORDS[count])


def _noun_form(a: Analysis, phrase: NounPhrase, plural: bool) -> Token | None:
    """The head in the other number; None when that is unknown."""
    token = a.tokens[phrase.noun_end - 1]
    form = PLURAL_OF.get(phrase.head) if plural else (phrase.head if phrase.head in PLURAL_OF else None)
    return None if form is None else token.saying(form)


def change_count(a: Analysis, rng: np.random.Generator) -> Iterator[Edit]:
    """'three cups' -> 'four cups'; 'a cup' -> 'two cups'."""
    from .objects import agreement

    for phrase in a.phrases:
        if phrase.number is None:
            yield from _counted(a, phrase)
            continue
        token = a.tokens[phrase.number]
        value = _value(token)
        if value is None or not 1 <= value <= 20:
            continue
        options = [n for n in range(1, _MAX_COUNT + 1) if n != value]
        near = [n for n in (value - 1, value + 1) if n in options]
        for count in dict.fromkeys([*near, options[int(rng.integers(len(options)))]]):
            splices = [put(phrase.number, phrase.number + 1, [_spelled(count, token)])]
            if (count == 1) != (value == 1):
                head = _noun_form(a, phrase, count != 1)
                verb = agreement(a, phrase, count == 1)
                if head is None or verb is None or phrase.end != phrase.noun_end:
                    continue
                splices += [put(phrase.noun_end - 1, phrase.noun_end, [head]), *verb]
            yield edit("change_count", f"{token.key} -> {splices[0].tokens[0].key} ({label(a, phrase)})", *splices)


def _counted(a: Analysis, phrase: NounPhrase) -> Iterator[Edit]:
    """'a cup' -> 'two cups', where the cup is known to be a thing that is counted."""
    from .objects import agreement

    determiner = phrase.determiner
    if (
        determiner is None
        or a.tokens[determiner].key not in ("a", "an")
        or phrase.plural
        or phrase.head not in CLASS_OF
    ):
        return
    head, verb = _noun_form(a, phrase, True), agreement(a, phrase, False)
    if head is None or verb is None or phrase.end != phrase.noun_end or phrase.head in UNCOUNTED:
        return
    for count in ("two", "three"):
        splices = [
            put(determiner, determiner + 1, [a.tokens[determiner].saying(count)]),
            put(phrase.noun_end - 1, phrase.noun_end, [head]),
            *verb,
        ]
        yield edit("change_count", f"{a.tokens[determiner].key} -> {count} ({label(a, phrase)})", *splices)


def drop_count(a: Analysis, rng: np.random.Generator) -> Iterator[Edit]:
    """'three cups' -> 'cups'."""
    for phrase in a.phrases:
        if phrase.number is not None and phrase.plural:
            token = a.tokens[phrase.number]
            yield edit("drop_count", f"- {token.key} ({label(a, phrase)})", cut(phrase.number, phrase.number + 1))


def _class_of(a: Analysis, phrase: NounPhrase) -> str | None:
    spoken = [a.tokens[i].key for i in range(phrase.noun, phrase.noun_end - 1)]
    before = a.tokens[phrase.noun - 1].key if phrase.noun > phrase.start else ""
    compound = f"{(spoken or [before])[-1]} {phrase.head}"
    return COMPOUNDS.get(compound) or CLASS_OF.get(phrase.head)


def _renamed(a: Analysis, phrase: NounPhrase, name: str) -> list[Splice] | None:
    """The whole compound noun becomes `name`, in the number of the phrase."""
    if phrase.head in UNCOUNTED or phrase.end != phrase.noun_end:
        return None
    start, tokens = phrase.noun, words(PLURAL_OF[name] if phrase.plural else name)
    first = a.tokens[start]
    if f"{a.tokens[start - 1].key} {phrase.head}" in COMPOUNDS and start > phrase.start:
        start -= 1
    if first.text[:1].isupper() and start == 0:
        tokens[0] = word(tokens[0].text[:1].upper() + tokens[0].text[1:])
    return [put(start, phrase.noun_end, tokens)]


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
        common = MEMBERS.get(name or "", ())[: _COMMON_PEOPLE if name == "person" else _COMMON]
        options = [member for member in common if member in PLURAL_OF and member not in present and member != name]
        if not options or phrase.head == name:
            continue
        name = choose(rng, options)
        if splices := _renamed(a, phrase, name):
            yield edit("change_object", f"{label(a, phrase)} -> {name}", *splices)
