"""Description ↔ prompt, exactly: `parse(speak(d)) == d` for every description this package can draw."""

from __future__ import annotations

import re

from .scenes import COLORS, RELATIONS, SHAPES, TEXTURES, Description, Thing

NUMBER_WORDS = {2: "two", 3: "three", 4: "four"}
_PLURALS = {shape: ("crosses" if shape == "cross" else f"{shape}s") for shape in SHAPES}
_NOUNS = {**{shape: (shape, 1) for shape in SHAPES}, **{plural: (shape, 2) for shape, plural in _PLURALS.items()}}
_COUNTS = {"a": 1, **{word: count for count, word in NUMBER_WORDS.items()}}
_LINKS = re.compile(r"\s+(and|" + "|".join(RELATIONS) + r")\s+")

#: every word a prompt can hold, in a fixed order
WORDS: tuple[str, ...] = tuple(
    dict.fromkeys([*_COUNTS, *COLORS, *TEXTURES, *SHAPES, *_PLURALS.values(), "and", *" ".join(RELATIONS).split()])
)


class PromptError(ValueError):
    """The text is not a prompt of this small language."""


def speak_thing(thing: Thing) -> str:
    """'two striped red circles'."""
    number = NUMBER_WORDS.get(thing.count, "a")
    noun = thing.shape if thing.count == 1 else _PLURALS[thing.shape]
    return " ".join(word for word in (number, thing.texture, thing.color, noun) if word)


def speak(description: Description) -> str:
    """The prompt that says exactly this description."""
    link = description.relation or "and"
    return f" {link} ".join(speak_thing(thing) for thing in description.things)


def _parse_thing(phrase: str) -> Thing:
    words = phrase.split()
    if len(words) < 2 or words[0] not in _COUNTS or words[-1] not in _NOUNS:
        raise PromptError(f"'{phrase}' is not '<a|two|three|four> [texture] [color] <shape>'")
    count = _COUNTS[words[0]]
    shape, form = _NOUNS[words[-1]]
    texture = color = None
    for word in words[1:-1]:
        if word in TEXTURES and texture is None and color is None:
            texture = word
        elif word in COLORS and color is None:
            color = word
        else:
            raise PromptError(f"unexpected word '{word}' in '{phrase}'")
    if (count > 1) != (form > 1):
        raise PromptError(f"number and noun disagree in '{phrase}'")
    return Thing(shape, color, texture, count)


def parse(prompt: str) -> Description:
    """Read a prompt back into its description.

    Raises:
        PromptError: the text is outside the language; the message names the phrase.
    """
    pieces = _LINKS.split(" ".join(prompt.lower().split()))
    things, links = tuple(map(_parse_thing, pieces[::2])), pieces[1::2]
    if len(links) > 1:
        raise PromptError(f"'{prompt}' joins more than two things")
    relation = links[0] if links and links[0] in RELATIONS else None
    return Description(things, relation)
