"""What an import reads: rows of a preference set, cut into parts that are read independently of each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ..prompts.sources import clean_prompt

TIE, NO_LABEL, NO_CAPTION, REPEATED = "tie", "no label", "no caption", "repeated"


@dataclass(frozen=True)
class Part:
    """`take` rows after `skip` rows of one place in a source (a file, or some row groups of it)."""

    file: int
    groups: tuple[int, ...]
    skip: int
    take: int


@dataclass(frozen=True)
class Example:
    """One preference: which of two pictures of a caption was chosen.

    Attributes:
        where: for messages and the index, 'train-00000.parquet, row 17'.
        prompt: the caption, cleaned.
        win, lose: encoded pictures, files that hold them, or latents [C, H, W].
        degraded_prompt: where the source has one.
    """

    where: str
    prompt: str
    win: bytes | Path | Tensor
    lose: bytes | Path | Tensor
    degraded_prompt: str | None = None


@dataclass(frozen=True)
class Skip:
    """A row that is left out, and why."""

    reason: str
    where: str


class Source(Protocol):
    """A preference set.

    Attributes:
        description: what identifies its content, for the settings.
        parts: all of it, in order.
    """

    description: dict[str, Any]
    parts: list[Part]

    def read(self, part: Part) -> Iterator[Example | Skip]:
        """The rows of one part, one entry per row, in constant memory."""
        ...


def caption(value: Any) -> str | None:
    """A cleaned caption, or None when there is none."""
    return (clean_prompt(value) or None) if isinstance(value, str) else None


def cut(rows: int, size: int, file: int = 0) -> list[Part]:
    """Parts of at most `size` rows."""
    return [Part(file, (), start, min(size, rows - start)) for start in range(0, rows, size)]


def first_rows(parts: Sequence[Part], limit: int | None) -> list[Part]:
    """The parts that hold the first `limit` rows; None: all."""
    if limit is None:
        return list(parts)
    kept: list[Part] = []
    for part in parts:
        left = limit - sum(earlier.take for earlier in kept)
        if left <= 0:
            break
        kept.append(replace(part, take=min(part.take, left)))
    return kept
