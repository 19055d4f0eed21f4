"""How tests read a preference set and import it: small batches, small parts, sources opened and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ddspo.errors import UserError
from ddspo.pairs.import_pairs import ImportSettings
from ddspo.pairs.source_open import open_source
from ddspo.pairs.sources import Example, Skip, Source
from ddspo.recipe import Recipe

SMALL = ImportSettings(batch_pairs=2, rows_per_part=4, max_aspect=2.0)


def recipe(family: Any, **changes: Any) -> Recipe:
    """A recipe on the family's base, two pairs a shard; `changes` are further sections."""
    return Recipe.model_validate({"model": {"base": str(family.base)}, "pairs": {"pairs_per_shard": 2}, **changes})


def everything(source: Source) -> list[Example | Skip]:
    """What all parts of a source hold."""
    return [entry for part in source.parts for entry in source.read(part)]


def opened(name: Path | str, rows_per_part: int = 4, **options: Any) -> Source:
    """A source for a model of four latent channels."""
    return open_source(str(name), rows_per_part, channels=4, **options)


def refused(name: Path | str, match: str, **options: Any) -> None:
    """Opening or reading the source ends in one line that matches."""
    with pytest.raises(UserError, match=match) as caught:
        everything(opened(name, **options))
    assert "\n" not in str(caught.value)
