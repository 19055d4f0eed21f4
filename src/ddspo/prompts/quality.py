"""How far a variant is from its prompt, and the filters on that."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import UserError
from .variants import Outcome, Variant

#: texts -> one embedding each, [N, D]; the model's own text encoder, pooled
Embed = Callable[[list[str]], npt.ArrayLike]

_WORD = re.compile(r"[^\W_]+|[^\w\s]")
Item = TypeVar("Item")


class TextDistance:
    """How far texts are from one prompt: 1 - common / longer.

    `common` counts the words and signs that both have in the same order: the longest common subsequence, by
    bit-parallel dynamic programming. 0 for texts that differ in spacing and capitals only, 1 for those that share
    nothing.
    """

    def __init__(self, prompt: str) -> None:
        words = _WORD.findall(prompt.casefold())
        self._length, self._places = len(words), dict[str, int]()
        for index, word in enumerate(words):
            self._places[word] = self._places.get(word, 0) | 1 << index

    def __call__(self, text: str) -> float:
        """The distance of one text."""
        words = _WORD.findall(text.casefold())
        longer = max(self._length, len(words))
        if not longer:
            return 0.0
        full = state = (1 << self._length) - 1
        for word in words:
            matched = state & self._places.get(word, 0)
            state = ((state + matched) | (state - matched)) & full
        return 1 - (self._length - state.bit_count()) / longer


def text_distance(prompt: str, variant: str) -> float:
    """`TextDistance` of one pair."""
    return TextDistance(prompt)(variant)


def embedding_distances(prompts: Sequence[str], variants: Sequence[list[str]], embed: Embed) -> list[list[float]]:
    """1 - cosine between each prompt's embedding and those of its variants; 0 to 2."""
    texts = [text for prompt, own in zip(prompts, variants, strict=True) for text in (prompt, *own)]
    vectors = np.asarray(embed(texts), np.float64)
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise ValueError(f"embed must give [{len(texts)}, D], not {list(vectors.shape)}")
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    result, row = [], 0
    for own in variants:
        result.append((1 - vectors[row + 1 : row + 1 + len(own)] @ vectors[row]).tolist())
        row += 1 + len(own)
    return result


class QualityFilter:
    """Measures variants and drops those nearer to their prompt than the thresholds.

    A degraded prompt that the text encoder cannot tell from the prompt gives two equal target policies: no lesson.
    """

    def __init__(self, min_text_distance: float, min_embedding_distance: float, embed: Embed | None) -> None:
        if min_embedding_distance > 0 and embed is None:
            raise UserError(
                "degradation.min_embedding_distance needs the model's text encoder: pass `embed`, or set it to 0"
            )
        self._min_text, self._min_embedding, self._embed = min_text_distance, min_embedding_distance, embed

    def measured(
        self, made: Iterator[tuple[Item, str, Outcome]], together: int = 32
    ) -> Iterator[tuple[Item, Outcome, list[dict[str, float]]]]:
        """Each outcome with near variants dropped and counted, and the distances of those that stay.

        Args:
            made: (anything that identifies it, prompt, outcome).
            together: prompts whose variants are embedded in one call.
        """
        while chunk := list(islice(made, together if self._embed is not None else 1)):
            prompts = [prompt for _, prompt, _ in chunk]
            texts = [[variant.text for variant in outcome.variants] for _, _, outcome in chunk]
            embedded = embedding_distances(prompts, texts, self._embed) if self._embed is not None else None
            for row, (item, prompt, outcome) in enumerate(chunk):
                yield item, *self._one(prompt, outcome, embedded[row] if embedded else None)

    def _one(
        self, prompt: str, outcome: Outcome, embedded: list[float] | None
    ) -> tuple[Outcome, list[dict[str, float]]]:
        kept: list[Variant] = []
        distances: list[dict[str, float]] = []
        dropped = Counter(outcome.dropped)
        distance = TextDistance(prompt)
        for index, variant in enumerate(outcome.variants):
            measures = {"text_distance": round(distance(variant.text), 4)}
            if embedded is not None:
                measures["embedding_distance"] = round(embedded[index], 6)
            if measures["text_distance"] < self._min_text:
                dropped["nearer in text than min_text_distance"] += 1
            elif measures.get("embedding_distance", 2.0) < self._min_embedding:
                dropped["nearer in embedding than min_embedding_distance"] += 1
            else:
                kept.append(variant)
                distances.append(measures)
        skipped = outcome.skipped or (None if kept else "every variant is too near to the prompt")
        return Outcome(kept, skipped, dropped, outcome.passing), distances
