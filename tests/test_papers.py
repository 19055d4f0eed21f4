"""docs/papers.md promises that every function it names exists."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "papers.md"


def test_every_named_function_exists() -> None:
    names = re.findall(r"`(ddspo(?:\.\w+)+)`", PAGE.read_text(encoding="utf-8"))
    assert len(names) > 10
    for name in names:
        assert callable(pkgutil.resolve_name(name)), name
