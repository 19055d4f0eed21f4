"""Prompts of the training list that are set aside, so that a model can be judged on prompts it never saw.

Whether a prompt is set aside follows from the run seed and the prompt alone: the list may grow, be shuffled or be read
by several processes, and nothing needs to be remembered.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..rng import seed_for

if TYPE_CHECKING:
    from ..recipe import Recipe

HELD_OUT = "held_out"
"""as `evaluation.prompts`: what `prompts.held_out` sets aside"""


@dataclass(frozen=True)
class Part(Container[str]):
    """Ids of prompts that are set aside (`held_out`), or the others.

    Attributes:
        share: of all prompts that is set aside, on average.
        seed: the run seed.
        held_out: which of the two.
    """

    share: float
    seed: int
    held_out: bool

    def __contains__(self, prompt_id: object) -> bool:
        return (seed_for(self.seed, "held out", str(prompt_id)) < self.share * 2**63) == self.held_out


def trained_part(recipe: Recipe) -> Part | None:
    """What may be trained on; None: everything."""
    share = recipe.prompts.held_out
    return Part(share, recipe.seed, held_out=False) if share else None


def held_out_part(recipe: Recipe) -> Part:
    """What is set aside."""
    return Part(recipe.prompts.held_out, recipe.seed, held_out=True)
