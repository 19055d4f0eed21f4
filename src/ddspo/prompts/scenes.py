"""Exact degradation of tinyscenes prompts by clause; the edits themselves live in `tinyscenes.edits`."""

from __future__ import annotations

import numpy as np

from tinyscenes.edits import EDITS, distinct_edits
from tinyscenes.language import PromptError, parse, speak
from tinyscenes.prompts import split_of

from ..errors import UserError
from .variants import UnusableError, Variant


class ScenesDegrader:
    """Draws edits of a tinyscenes prompt: kinds in random order, one edit of each in turn, until there are enough.

    So a mixture is balanced over the kinds that a prompt allows, however many edits each of them has.
    """

    name = "scenes"

    def __init__(self, kinds: tuple[str, ...] = ()) -> None:
        unknown = [kind for kind in kinds if kind not in EDITS]
        if unknown:
            raise UserError(f"degradation.kinds: '{unknown[0]}' is unknown to 'scenes'; known: {', '.join(EDITS)}")
        self.kinds = kinds or tuple(EDITS)

    def edits(self, prompt: str) -> dict[str, list[Variant]]:
        """Every valid variant of `prompt` by kind, each meaning once.

        A training prompt is never degraded into a held-out combination: seen on the losing side only, those would be
        unlearned, and evaluation on them would measure that.

        Raises:
            UnusableError: not a tinyscenes prompt.
        """
        try:
            original = parse(prompt)
        except PromptError as error:
            raise UnusableError("not a tinyscenes prompt") from error
        for_training = split_of(original) == "train"
        found = {
            kind: [
                Variant(speak(edited), kind, change)
                for edited, change in edits
                if not (for_training and split_of(edited) != "train")
            ]
            for kind, edits in distinct_edits(original, self.kinds).items()
        }
        return {kind: variants for kind, variants in found.items() if variants}

    def degrade(self, prompt: str, rng: np.random.Generator, variants: int) -> list[Variant]:
        """Up to `variants` distinct edits.

        Raises:
            UnusableError: not a tinyscenes prompt, or none of the kinds applies to it.
        """
        found = self.edits(prompt)
        if not found:
            raise UnusableError("none of the kinds applies")
        columns = [[group[i] for i in rng.permutation(len(group))] for group in found.values()]
        columns = [columns[i] for i in rng.permutation(len(columns))]
        rows = range(max(map(len, columns)))
        return [column[row] for row in rows for column in columns if row < len(column)][:variants]
