"""Random removal of words, as published (arXiv 2512.23426, alignment task)."""

from __future__ import annotations

import numpy as np

from .variants import UnusableError, Variant

#: draws per variant asked for; short prompts repeat themselves. Published: one
_TRIES_PER_VARIANT = 4


class RemovalDegrader:
    """Drops a random share of the words of a prompt.

    The prompt is split on whitespace into n words; per variant a share r ~ uniform(remove_low, remove_high) is drawn
    and max(1, floor(r·n)) words, but never all, are dropped; the rest keep their order. Published: 0.4 to 0.7.
    Distinct variants come in the order in which they were drawn: no set decides it, so every process makes the same.
    """

    name = "removal"

    def __init__(self, remove_low: float, remove_high: float) -> None:
        self.remove_low = remove_low
        self.remove_high = remove_high

    def degrade(self, prompt: str, rng: np.random.Generator, variants: int) -> list[Variant]:
        """Up to `variants` distinct shortened prompts.

        Raises:
            UnusableError: the prompt has one word.
        """
        words = prompt.split()
        if len(words) < 2:
            raise UnusableError("one word")
        original = " ".join(words)
        tries = variants * _TRIES_PER_VARIANT
        shares = rng.uniform(self.remove_low, self.remove_high, tries)
        found: dict[str, Variant] = {}
        for share in shares:
            count = min(max(1, int(share * len(words))), len(words) - 1)
            dropped = np.sort(rng.permutation(len(words))[:count]).tolist()
            gone = set(dropped)
            text = " ".join([word for index, word in enumerate(words) if index not in gone])
            if text != original and text not in found:
                found[text] = Variant(text, "removal", "- " + " ".join([words[index] for index in dropped]))
                if len(found) == variants:
                    break
        if not found:
            raise UnusableError("every shortened form equals the prompt")
        return list(found.values())
