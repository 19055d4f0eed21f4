"""Tokens of a prompt and edits on them; rendering mends articles, capitals and commas around an edit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .inflect import article

# Weighting such as (red:1.3) is one token that stands for the words inside; <lora:x:1> stands for nothing.
_TOKEN = re.compile(
    r"(?P<space>\s*)(?:(?P<weighted>\((?P<inner>[^():<>]+):\d*\.?\d+\))|(?P<opaque><[^<>\s]*>)"
    r"|(?P<word>[^\W_]+(?:[’'\-][^\W_]+)*)|(?P<other>\S))"
)


@dataclass(frozen=True, slots=True)
class Token:
    """A word or sign: the white space before it, its text, and the lower-case word that it stands for."""

    space: str
    text: str
    key: str

    def saying(self, word: str) -> Token:
        """The same token with another word, in its weighting and with its capital."""
        if self.text[:1].isupper() and self.text[1:] == self.key[1:]:
            word = word[:1].upper() + word[1:]
        inner = re.search(re.escape(self.key), self.text, re.IGNORECASE)
        text = word if inner is None else self.text[: inner.start()] + word + self.text[inner.end() :]
        return replace(self, text=text, key=word.lower())


def word(text: str) -> Token:
    """A new word after a blank."""
    return Token(" ", text, text.lower())


def words(text: str) -> list[Token]:
    """New words after blanks."""
    return [word(part) for part in text.split()]


def tokenize(prompt: str) -> list[Token]:
    """Split a prompt; joining space and text of all tokens gives it back (white space at its end is lost)."""
    tokens = []
    for match in _TOKEN.finditer(prompt):
        text = match.group(0)[len(match["space"]) :]
        key = "" if match["opaque"] else (match["inner"] or text).strip().lower().replace("’", "'")
        tokens.append(Token(match["space"], text, key))
    return tokens


@dataclass(frozen=True)
class Splice:
    """Tokens [start, end) give way to `tokens`."""

    start: int
    end: int
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True)
class Edit:
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
    return "".join(token.space + token.text for token in tokens).strip()


def _spliced(tokens: Sequence[Token], splices: Sequence[Splice]) -> list[Token]:
    result: list[Token] = []
    position = 0
    for splice in sorted(splices, key=lambda s: (s.start, s.end)):
        result += tokens[position : splice.start]
        if splice.tokens:
            space = tokens[splice.start].space if splice.start < len(tokens) else " "
            first = splice.tokens[0]
            result.append(first if first.space == space else replace(first, space=space))
            result += splice.tokens[1:]
        position = splice.end
        if splice.start == splice.end and splice.tokens and position < len(tokens) and not tokens[position].space:
            # An insertion takes the space of the token it precedes; that one needs its own.
            result.append(replace(tokens[position], space=" "))
            position += 1
    return [*result, *tokens[position:]]


def _mended_articles(original: Sequence[Token], tokens: list[Token]) -> list[Token]:
    """'a' and 'an' agree with the next word wherever that pair is new; the prompt's own mistakes stay."""
    pairs = {(one.key, two.key) for one, two in zip(original, original[1:], strict=False)}
    for index in range(len(tokens) - 1):
        token, following = tokens[index], tokens[index + 1]
        if token.key in ("a", "an") and following.key[:1].isalpha() and (token.key, following.key) not in pairs:
            wanted = article(following.key)
            if wanted != token.key:
                tokens[index] = token.saying(wanted)
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
        result = [replace(t, text=t.key) if t.text == start.text and t.key in lowered else t for t in result]
        first = result[0]
        result[0] = replace(first, text=first.text[:1].upper() + first.text[1:])
    text = said(result)
    text = re.sub(r"\s+([,.;])", r"\1", text)
    return re.sub(r",(?:\s*,)+|,(?=\s*\.)", lambda match: "," if match.group(0).count(",") > 1 else "", text).rstrip(
        " ,;"
    )
