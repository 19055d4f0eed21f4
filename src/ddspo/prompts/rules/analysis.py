"""What a prompt is made of: noun phrases with attributes and counts, lists of them, relations, and style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .lexicon import CLASS_OF, SINGULAR_OF
from .tagger import Tag, Tagger
from .text import Token, tokenize
from .words import MEASURES, MEDIA, RELATIONS, STYLE_WORDS

_RELATIONS = {tuple(phrase.split()): phrase for phrase in RELATIONS}
_LONGEST = max(map(len, _RELATIONS))
_FIRST = frozenset(words[0] for words in _RELATIONS)
Span = tuple[int, int]


class NounPhrase(NamedTuple):
    """[start, end) of the tokens; the compound noun is [noun, noun_end), its last token is the head.

    'a round slice of bread' is one phrase with the head 'slice': what it measures belongs to it.
    """

    start: int
    noun: int
    noun_end: int
    end: int
    attributes: tuple[Span, ...]
    determiner: int | None
    number: int | None
    head: str
    """singular, lower case"""
    plural: bool

    @property
    def attribute_span(self) -> Span:
        """From the first attribute to the last; empty before the noun when there is none."""
        return (self.attributes[0][0], self.attributes[-1][1]) if self.attributes else (self.noun, self.noun)


@dataclass(frozen=True)
class Analysis:
    """A prompt taken apart. Spans are token indices."""

    tokens: list[Token]
    tags: list[Tag]
    phrases: list[NounPhrase]
    groups: list[tuple[NounPhrase, ...]]
    """every noun phrase is in one group; 'a, b and c' are one of three"""
    relations: list[tuple[int, int, str]]
    styles: list[Span]
    segments: list[Span]
    """comma segments without style, from after the comma"""
    start: int
    """where the content starts, after 'a photo of'"""
    end: int
    """where it ends, before style and the final point"""


def _medium_end(keys: Sequence[str]) -> int:
    """The length of 'a photo of' or 'an oil painting of' at the start; 0 when there is none."""
    for index, key in enumerate(keys[:7]):
        if key == "of" and index and keys[index - 1] in MEDIA:
            return index + 1 if index + 1 < len(keys) else 0
        if key in (",", "and", ".") or (key == "of" and index):
            return 0
    return 0


def _is_style(keys: Sequence[str]) -> bool:
    if not keys:
        return False
    if tuple(keys[:4]) == ("in", "the", "style", "of") or (keys[0] == "by" and len(keys) <= 5):
        return True
    known = sum(any(part in STYLE_WORDS for part in (key, *key.split("-"))) for key in keys)
    return known > 0 and len(keys) <= 6 and not {"a", "an", "the", "is", "are", "was", "were"} & set(keys)


def _segments(keys: Sequence[str], start: int) -> tuple[list[Span], list[Span]]:
    """Comma segments after the first one: (content, style); each starts after its comma."""
    ends = [i for i in range(start, len(keys)) if keys[i] in (",", ";", "|")]
    bounds = [(a + 1, b) for a, b in zip(ends, [*ends[1:], len(keys)], strict=False) if b > a + 1]
    bounds = [(a, b - 1 if keys[b - 1] == "." and b - 1 > a else b) for a, b in bounds]
    content: list[Span] = []
    style: list[Span] = []
    for a, b in bounds:
        (style if _is_style(keys[a:b]) else content).append((a, b))
    return content, style


def _inner_style(keys: Sequence[str], start: int, end: int) -> Span | None:
    """'in the style of ...' or '... by Firstname Lastname' inside the first segment."""
    for index in range(start + 1, end):
        if tuple(keys[index : index + 4]) == ("in", "the", "style", "of"):
            return (index, end)
    return None


def _find_relations(keys: Sequence[str], start: int, end: int) -> list[tuple[int, int, str]]:
    found: list[tuple[int, int, str]] = []
    index = start
    while index < end:
        for length in range(min(_LONGEST, end - index) if keys[index] in _FIRST else 0, 0, -1):
            phrase = _RELATIONS.get(tuple(keys[index : index + length]))
            if phrase is not None:
                found.append((index, index + length, phrase))
                index += length - 1
                break
        index += 1
    return found


def _attributes(keys: Sequence[str], tags: Sequence[Tag], index: int) -> tuple[list[Span], int]:
    """Attributes from `index` on: adverbs belong to the next adjective, 'black and white' is one attribute."""
    spans: list[Span] = []
    while index < len(keys):
        start = index
        while index < len(keys) and tags[index] == "adverb":
            index += 1
        if index >= len(keys) or tags[index] != "adjective":
            return spans, start
        index += 1
        if (
            index + 1 < len(keys)
            and keys[index] == "and"
            and tags[index + 1] == "adjective"
            and _noun_follows(tags, index + 2)
        ):
            index += 2
        spans.append((start, index))
        if (
            index + 1 < len(keys)
            and keys[index] == ","
            and tags[index + 1] == "adjective"
            and _noun_follows(tags, index + 2)
        ):
            index += 1
    return spans, index


def _noun_follows(tags: Sequence[Tag], index: int) -> bool:
    """Whether a noun (after more adjectives) still follows at `index`, so that what precedes it is one noun phrase."""
    while index < len(tags) and tags[index] in ("adjective", "adverb"):
        index += 1
    return index < len(tags) and tags[index] == "noun"


def _noun_phrase(keys: Sequence[str], tags: Sequence[Tag], start: int) -> NounPhrase | None:
    index = start
    determiner = number = None
    if tags[index] == "determiner":
        determiner = index
        index += 1
    if index < len(keys) and tags[index] == "number":
        number = index
        index += 1
    attributes, index = _attributes(keys, tags, index)
    if (
        determiner is not None
        and attributes
        and tuple(tags[index : index + 3]) == ("sign", "noun", "noun")
        and keys[index] == ","
    ):
        index += 1  # 'the warm, summer sun'
    noun = index
    while index < len(keys) and tags[index] == "noun":
        index += 1
    if index == noun:
        return None
    head = keys[index - 1]
    counted = number is not None and keys[number] not in ("one", "1")
    singular = SINGULAR_OF.get(head, head) if head not in CLASS_OF or counted else head
    return NounPhrase(
        start,
        noun,
        index,
        index,
        tuple(attributes),
        determiner,
        number,
        singular,
        singular != head or _plural(head, counted),
    )


def _plural(head: str, counted: bool) -> bool:
    return counted or (
        head not in CLASS_OF and len(head) > 3 and head.endswith("s") and not head.endswith(("ss", "us", "is"))
    )


def _phrases(keys: Sequence[str], tags: Sequence[Tag], blocked: set[int]) -> list[NounPhrase]:
    found: list[NounPhrase] = []
    index = 0
    while index < len(keys):
        if index in blocked or tags[index] not in ("determiner", "number", "adverb", "adjective", "noun"):
            index += 1
            continue
        phrase = _noun_phrase(keys, tags, index)
        if phrase is None or any(i in blocked for i in range(phrase.start, phrase.end)):
            index += 1
            continue
        if found and found[-1].head in MEASURES and keys[found[-1].end : phrase.start] == ["of"]:
            phrase = found.pop()._replace(end=phrase.end)
        found.append(phrase)
        index = phrase.end
    return found


def _groups(keys: Sequence[str], phrases: Sequence[NounPhrase]) -> list[tuple[NounPhrase, ...]]:
    """Runs joined by commas with 'and' before the last; a run without 'and' falls apart into single ones."""
    groups: list[tuple[NounPhrase, ...]] = []
    run: list[NounPhrase] = []
    joined = False
    for phrase in phrases:
        between = tuple(keys[run[-1].end : phrase.start]) if run else ("",)
        if run and not joined and between in ((",",), ("and",), (",", "and"), ("&",)):
            run.append(phrase)
            joined = between[-1] != ","
            continue
        groups += [tuple(run)] if joined else [(single,) for single in run]
        run, joined = [phrase], False
    return groups + ([tuple(run)] if joined else [(single,) for single in run])


def analyze(prompt: str, tagger: Tagger) -> Analysis:
    """Take a prompt apart."""
    tokens = tokenize(prompt)
    keys = [token.key or "<>" for token in tokens]
    start = _medium_end(keys)
    content, style = _segments(keys, start)
    first_end = min([a - 1 for a, _ in [*content, *style]], default=len(keys))
    inner = _inner_style(keys, start, first_end)
    styles = [*([(0, start)] if start else []), *([inner] if inner else []), *style]
    blocked = {index for a, b in styles for index in range(a, b)}
    end = len(keys)
    while end > start and (end - 1 in blocked or keys[end - 1] in (".", ",", "!", ";")):
        end -= 1
    relations = [r for r in _find_relations(keys, start, end) if r[0] not in blocked]
    tags = tagger.tag(keys)
    for a, b, _ in relations:
        tags[a:b] = ["preposition"] * (b - a)
        blocked |= set(range(a, b))
    phrases = _phrases(keys, tags, blocked)
    return Analysis(tokens, tags, phrases, _groups(keys, phrases), relations, styles, content, start, end)
