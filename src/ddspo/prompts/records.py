"""Prompts as they are read, and the account of what was not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PromptRecord:
    """One prompt. `id` follows from its text, so no two prompts share one; `meta` is whatever else its row said."""

    id: str
    prompt: str
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass
class Skipped:
    """How many rows were left out or mended, by reason, with the place of the first one."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, where: str) -> None:
        """Count one row; `where` is remembered for the first of its kind."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.first.setdefault(reason, where)

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        return "; ".join(f"{count} {reason} (first: {self.first[reason]})" for reason, count in self.counts.items())


class PromptList(list[PromptRecord]):
    """Prompts in the order of their source, and what was left out (`skipped`) or mended (`repaired`) on the way."""

    def __init__(self, records: list[PromptRecord], skipped: Skipped, repaired: Skipped) -> None:
        super().__init__(records)
        self.skipped = skipped
        self.repaired = repaired
