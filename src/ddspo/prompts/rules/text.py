"""Tokens of a prompt and edits on them; rendering mends articles, capitals and commas around an edit."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

from .inflect import article

# Weighting such as (red:1.3) is one token that stands for the words inside; <lora:x:1> stands for nothing.
_TOKEN = re.compile(
    r"(?P<space>\s*)(?:(?P<weighted>\((?P<inner>[^():<>]+):\d*\.?\d+\))|(?P<opaque><[^<>\s]*>)"
    r"|(?P<word>[^\W_]+(?:[’'\-][^\W_]+)*)|(?P<other>\S))"
)
_SPACE_BEFORE_SIGN = re.compile(r"\s+([,.;])")
_LOOSE_COMMA = re.compile(r",(?:\s*,)+|,(?=\s*\.)")


class Token(NamedTuple):
    """A word or sign: the white space before it, its text, and the lower-case word that it stands for."""

    space: str
    text: str
    key: str

    def saying(self, word: str) -> Token:
        """The same token with another word, in its weighting and with its capital."""
        if self.text[:1].isupper() and self.text[1:] == self.key[1:]:
            word = word[:1].upper() + word[1:]
        before, key, after = self.text.lower().partition(self.key)
        if len(before) + len(key) + len(after) != len(self.text) or not key:
            return Token(self.space, word, word.lower())  # a letter whose lower case is longer
        text = self.text[: len(before)] + word + self.text[len(before) + len(key) :]
        return Token(self.space, text, word.lower())


def word(text: str) -> Token:
    """A new word after a blank."""
    return Token(" ", text, text.lower())


def words(text: str) -> list[Token]:
    """New words after blanks."""
    return [word(part) for part in text.split()]


def tokenize(prompt: str) -> list[Token]:
    """Split a prompt; joining space and text of all tokens gives it back (white space at its end is lost)."""
    tokens = []
    for space, weighted, inner, opaque, plain, other in _TOKEN.findall(prompt):
        text = plain or other or weighted or opaque
        key = "" if opaque else (inner or text).strip().lower().replace("’", "'")
        tokens.append(Token(space, text, key))
    return tokens


class Splice(NamedTuple):
    """Tokens [start, end) give way to `tokens`."""

    start: int
    end: int
    tokens: tuple[Token, ...] = ()


class Edit(NamedTuple):
    """A change with its name; splices do not overlap."""

    kind: str
    change: str
    splices: tuple[Splice, ...]


def edit(kind: str, change: str, *splices: Splice) -> Edit:
    """An `Edit`."""
    return Edit(kind, change, splices)


def cut(start: int, end: int) -> Splice:
    """Remove tokens [start, end)."""
    return Splice(start, end)


def put(start: int, end: int, tokens: Sequence[Token]) -> Splice:
    """Replace tokens [start, end)."""
    return Splice(start, end, tuple(tokens))


def said(tokens: Sequence[Token]) -> str:
    """The text of tokens."""
    return "".join([token.space + token.text for token in tokens]).strip()


def _spliced(tokens: Sequence[Token], splices: Sequence[Splice]) -> list[Token]:
    result: list[Token] = []
    position = 0
    for splice in sorted(splices, key=lambda s: (s.start, s.end)):
        result += tokens[position : splice.start]
        if splice.tokens:
            space = tokens[splice.start].space if splice.start < len(tokens) else " "
            first = splice.tokens[0]
            result.append(first if first.space == space else first._replace(space=space))
            result += splice.tokens[1:]
        position = splice.end
        if splice.start == splice.end and splice.tokens and position < len(tokens) and not tokens[position].space:
            # An insertion takes the space of the token it precedes; that one needs its own.
            result.append(tokens[position]._replace(space=" "))
            position += 1
    return [*result, *tokens[position:]]


def _mended_articles(original: Sequence[Token], tokens: list[Token]) -> list[Token]:
    """'a' and 'an' agree with the next word wherever that pair is new; the prompt's own mistakes stay."""
    for index in [number for number, token in enumerate(tokens[:-1]) if token.key in ("a", "an")]:
        key, following = tokens[index].key, tokens[index + 1].key
        if following[:1].isalpha() and (wanted := article(following)) != key:
            if not any(one.key == key and two.key == following for one, two in itertools.pairwise(original)):
                tokens[index] = tokens[index].saying(wanted)
    return tokens


def render(tokens: Sequence[Token], change: Edit, lowered: frozenset[str]) -> str:
    """The prompt after an edit.

    Args:
        lowered: words that lose their capital when they no longer begin the prompt.
    """
    result = _spliced(tokens, change.splices)
    while result and result[0].text in (",", ";"):
        result = result[1:]
    if not result:
        return ""
    result = _mended_articles(tokens, result)
    start = tokens[0]
    if result[0] is not start and start.text[:1].isupper() and start.key in lowered:
        result = [t._replace(text=t.key) if t.text == start.text and t.key in lowered else t for t in result]
        first = result[0]
        result[0] = first._replace(text=first.text[:1].upper() + first.text[1:])
    text = said(result)
    text = _SPACE_BEFORE_SIGN.sub(r"\1", text)
    if "," in text:
        text = _LOOSE_COMMA.sub(lambda match: "," if match.group(0).count(",") > 1 else "", text)
    return text.rstrip(" ,;")
