"""Edits of what is said about one thing: its attributes and its number; how it is named is in `naming`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .analysis import Analysis, NounPhrase
from .lexicon import CLASS_OF, PLURAL_OF, UNCOUNTED, is_alive
from .objects import agreement
from .text import Edit, Splice, Token, cut, edit, put, said
from .words import ATTRIBUTE_CLASS, ATTRIBUTES, NUMBER_WORDS, NUMBERS, OPPOSITES, UNITS, is_abstract

_CHANGEABLE = ("color", "material", "shape", "texture")
_SYNONYMS = tuple(
    frozenset(group.split())
    for group in (
        "gray grey silver",
        "gold golden yellow",
        "round circular spherical oval oblong",
        "fabric cotton silk velvet wool woolen denim linen",
        "metal metallic",
        "square cubic rectangular",
    )
)
_FOODS = ("fruit", "vegetable", "piece of food")
#: an attribute is exchanged for one of the first, plainest, words of its class
_PLAIN = 12
_MAX_COUNT = 10


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


def visible(a: Analysis) -> list[NounPhrase]:
    """The phrases that name something to see; how an abstract noun is called changes no picture."""
    return [phrase for phrase in a.phrases if phrase.head in CLASS_OF or not is_abstract(phrase.head)]


def drop_attribute(a: Analysis, rng: np.random.Generator) -> Iterator[Edit]:
    """'a red car' -> 'a car'."""
    for phrase in visible(a):
        for index, (start, end) in enumerate(phrase.attributes):
            change = f"- {said(a.tokens[start:end])} ({label(a, phrase)})"
            yield edit("drop_attribute", change, _cut_attribute(a, phrase, index))


def _alike(one: str, other: str) -> bool:
    return one == other or any(one in group and other in group for group in _SYNONYMS)


#: attribute -> what it may be changed to: of the first, plainest, words of its class those that mean something else
_OTHERS = {
    key: tuple(other for other in ATTRIBUTES[name][:_PLAIN] if not _alike(other, key))
    for key, name in ATTRIBUTE_CLASS.items()
    if name in _CHANGEABLE
}


def _other_attribute(key: str, phrase: NounPhrase, rng: np.random.Generator) -> str | None:
    if key == "old" and is_alive(phrase.head):
        return "young"
    if key == "fresh" and CLASS_OF.get(phrase.head) not in _FOODS:
        return None  # air, paint and ideas do not rot
    if key in OPPOSITES:
        return OPPOSITES[key]
    options = _OTHERS.get(key)
    return choose(rng, options) if options else None


def change_attribute(a: Analysis, rng: np.random.Generator) -> Iterator[Edit]:
    """'a red car' -> 'a blue car'; sizes and the like become their opposites."""
    for phrase in visible(a):
        taken = {a.tokens[i].key for start, end in phrase.attributes for i in range(start, end)}
        for start, end in phrase.attributes:
            other = _other_attribute(a.tokens[end - 1].key, phrase, rng) if end == start + 1 else None
            if other is not None and other not in taken:
                token = a.tokens[start]
                change = f"{token.key} -> {other} ({label(a, phrase)})"
                yield edit("change_attribute", change, put(start, end, [token.saying(other)]))


def swap_attributes(a: Analysis, rng: np.random.Generator) -> Iterator[Edit]:
    """'a red car and a blue bus' -> 'a blue car and a red bus'; an attribute of one alone moves to the other."""
    phrases = visible(a)
    for i, one in enumerate(phrases):
        for two in phrases[i + 1 :]:
            (s1, e1), (s2, e2) = one.attribute_span, two.attribute_span
            first, second = a.tokens[s1:e1], a.tokens[s2:e2]
            same_thing = (one.head, one.plural) == (two.head, two.plural)
            if same_thing or [t.key for t in first] == [t.key for t in second]:
                continue
            if not (first and second) and not (_may_lose(a, one) and _may_lose(a, two)):
                continue
            change = f"{said(first) or '(none)'} ({label(a, one)}) <-> {said(second) or '(none)'} ({label(a, two)})"
            yield edit("swap_attributes", change, put(s1, e1, _spaced(second)), put(s2, e2, _spaced(first)))


def _may_lose(a: Analysis, phrase: NounPhrase) -> bool:
    """Whether all attributes may go: an article stays, and no comma as in 'the hot, steamy water'."""
    return phrase.determiner is not None and phrase.attribute_span[1] == phrase.noun


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
    for phrase in a.phrases:
        if phrase.number is None:
            yield from _counted(a, phrase)
            continue
        token = a.tokens[phrase.number]
        value = _value(token)
        if value is None or not 1 <= value <= 20 or phrase.head in UNITS:
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
        if phrase.number is not None and phrase.plural and phrase.head not in UNITS:
            token = a.tokens[phrase.number]
            yield edit("drop_count", f"- {token.key} ({label(a, phrase)})", cut(phrase.number, phrase.number + 1))
