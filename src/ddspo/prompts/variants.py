"""What every degrader speaks: variants, and the reason when there are none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True)
class Variant:
    """One degraded prompt. `kind` names the sort of edit, `change` says what was edited, such as 'red -> blue'."""

    text: str
    kind: str
    change: str


class UnusableError(Exception):
    """A prompt that a degrader cannot degrade; the message is the reason under which it is counted."""


@dataclass(frozen=True)
class Outcome:
    """What came of one prompt: variants, or the reason why there are none, and how many were rejected by reason."""

    variants: list[Variant]
    skipped: str | None = None
    dropped: Counter[str] = field(default_factory=Counter)
    passing: bool = False
    """skipped for a reason that may pass, such as a server that did not answer: worth another attempt"""


class Degrader(Protocol):
    """Makes degraded prompts one prompt at a time."""

    name: str

    def degrade(self, prompt: str, rng: np.random.Generator, variants: int) -> list[Variant]:
        """At most `variants` distinct variants, none equal to the prompt; all randomness from `rng`.

        Raises:
            UnusableError: there is none, with the reason.
        """
        ...


@runtime_checkable
class StreamDegrader(Protocol):
    """Makes degraded prompts for many prompts at once (batches on a device, concurrent requests)."""

    name: str

    def degrade_stream(self, prompts: Iterable[tuple[str, np.random.Generator]], variants: int) -> Iterator[Outcome]:
        """One outcome per prompt, in the order of the prompts; stops early only by raising."""
        ...


def degrade_one(degrader: Degrader, prompt: str, rng: np.random.Generator, variants: int) -> Outcome:
    """The outcome of a degrader that takes one prompt at a time."""
    try:
        return Outcome(degrader.degrade(prompt, rng, variants))
    except UnusableError as reason:
        return Outcome([], str(reason))
