"""How tests damage a base, and what is said of one that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ddspo.errors import UserError
from ddspo.families.load import load_family


def edit_json(path: Path, **changes: object) -> None:
    """Set some fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def message(base: object, **options: str) -> str:
    """The one line with which a base is refused."""
    with pytest.raises(UserError) as raised:
        load_family(str(base), **options)
    text = str(raised.value)
    assert "\n" not in text
    return text
