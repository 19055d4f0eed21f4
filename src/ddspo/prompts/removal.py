"""Random removal of words, as published (arXiv 2512.23426, alignment task), and of content words or phrases."""

from __future__ import annotations

from typing import Literal

import numpy as np

from .rules.analysis import Analysis, analyze
from .rules.tagger import Tagger, WordListTagger
from .rules.text import said
from .variants import UnusableError, Variant

#: draws per variant asked for; short prompts repeat themselves. Published: one
_TRIES_PER_VARIANT = 4
Units = Literal["words", "content_words", "phrases"]


class RemovalDegrader:
    """Drops a random share of the units of a prompt.

    The prompt is split into pieces, n of which may go; per variant a share r ~ uniform(remove_low, remove_high) is
    drawn and max(1, floor(r·n)) of them are dropped, never every piece; the rest keep their order.

    Units: 'words' (published, with 0.4 to 0.7) splits on white space and every word may go; with 'content_words'
    articles, prepositions and the like stay; 'phrases' drops noun phrases whole, with what leads to them, and verbs.
    With `keep_style` the words of style phrases stay.

    Distinct variants come in the order in which they were drawn: no set decides it, so every process makes the same.
    """

    name = "removal"

    def __init__(
        self,
        remove_low: float,
        remove_high: float,
        units: Units = "words",
        keep_style: bool = False,
        tagger: Tagger | None = None,
    ) -> None:
        self.remove_low = remove_low
        self.remove_high = remove_high
        self.units = units
        self.keep_style = keep_style
        self._tagger = tagger or WordListTagger()

    def _pieces(self, prompt: str) -> tuple[list[str], list[int]]:
        """The pieces of a prompt, and the indices of those that may be dropped."""
        if self.units == "words" and not self.keep_style:
            words = prompt.split()
            return words, list(range(len(words)))
        analysis = analyze(prompt, self._tagger)
        styled = {index for start, end in analysis.styles for index in range(start, end)} if self.keep_style else set()
        spans = _phrase_spans(analysis) if self.units == "phrases" else _word_spans(analysis)
        pieces = [said(analysis.tokens[start:end]) for start, end in spans]
        droppable = [
            number
            for number, (start, end) in enumerate(spans)
            if not styled & set(range(start, end))
            and (self.units != "content_words" or _has_content(analysis, start, end))
        ]
        return pieces, droppable

    def degrade(self, prompt: str, rng: np.random.Generator, variants: int) -> list[Variant]:
        """Up to `variants` distinct shortened prompts.

        Raises:
            UnusableError: the prompt has one word, or nothing that may be dropped.
        """
        pieces, droppable = self._pieces(prompt)
        if len(pieces) < 2:
            raise UnusableError("one word" if self.units != "phrases" else "one phrase")
        if not droppable:
            raise UnusableError("nothing that may be dropped")
        original = " ".join(pieces)
        tries = variants * _TRIES_PER_VARIANT
        shares = rng.uniform(self.remove_low, self.remove_high, tries)
        most = min(len(droppable), len(pieces) - 1)
        found: dict[str, Variant] = {}
        for share in shares:
            count = min(max(1, int(share * len(droppable))), most)
            dropped = sorted(droppable[i] for i in rng.permutation(len(droppable))[:count].tolist())
            gone = set(dropped)
            text = " ".join([piece for index, piece in enumerate(pieces) if index not in gone])
            if text and text != original and text not in found:
                found[text] = Variant(text, "removal", "- " + " ".join([pieces[index] for index in dropped]))
                if len(found) == variants:
                    break
        if not found:
            raise UnusableError("every shortened form equals the prompt")
        return list(found.values())


def _word_spans(analysis: Analysis) -> list[tuple[int, int]]:
    """Words as white space separates them: a sign sticks to the word before it."""
    starts = [i for i, token in enumerate(analysis.tokens) if i == 0 or token.space]
    return list(zip(starts, [*starts[1:], len(analysis.tokens)], strict=True))


def _has_content(analysis: Analysis, start: int, end: int) -> bool:
    return any(analysis.tags[index] in ("noun", "adjective", "verb", "number", "adverb") for index in range(start, end))


def _phrase_spans(analysis: Analysis) -> list[tuple[int, int]]:
    """Noun phrases with the words that lead to them, up to a following sign; every token is in one span."""
    ends = [phrase.end for phrase in analysis.phrases]
    ends += [index + 1 for index, tag in enumerate(analysis.tags) if tag == "verb"]
    ends += [end for _, end in analysis.styles]
    bounds = sorted({min(end, len(analysis.tokens)) for end in ends if end > 0})
    grown = []
    for end in bounds:
        while end < len(analysis.tokens) and analysis.tags[end] == "sign" and not analysis.tokens[end].space:
            end += 1
        grown.append(end)
    if not grown or grown[-1] < len(analysis.tokens):
        grown.append(len(analysis.tokens))
    grown = sorted(set(grown))
    return list(zip([0, *grown[:-1]], grown, strict=True))
