"""Prompts to degrade with a chat server, settings that ask it, and the rows that came out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddspo.prompts.sources import PromptRecord
from ddspo.recipe import Degradation, LanguageModel

Start = Callable[[str], tuple[str, Callable[[], list[dict[str, Any]]]]]


def settings(url: str, fallback: str = "none", **fields: Any) -> Degradation:
    """Degrade with the model at `url`; `fields` are those of its settings."""
    model = LanguageModel(**{"url": url, "name": "tiny", "timeout_s": 10.0, "attempts": 4, **fields})
    return Degradation(method="server", language_model=model, fallback=fallback)


def records(*extra: str, count: int = 12) -> list[PromptRecord]:
    """The extra prompts, then `count` others."""
    texts = [*extra, *(f"a red car and a dog number {i}" for i in range(count))]
    return [PromptRecord(f"{i:016x}", text) for i, text in enumerate(texts)]


def rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
