"""Recipes that use stored reference rows, and what a folder of such rows holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddspo.recipe import Recipe

from .training_cases import changed


def on_rows(recipe: Recipe, rows: Path, **training: Any) -> Recipe:
    """The recipe with its reference rows in `rows`; `training` changes more fields of `recipe.training`."""
    return changed(recipe, training={"reference_rows": rows, **training})


def shards(rows: Path) -> dict[str, bytes]:
    """Every shard's tensors: the file without its metadata, which hold seconds."""
    found = {}
    for path in sorted(rows.glob("step-*.safetensors")):
        content = path.read_bytes()
        found[path.name] = content[8 + int.from_bytes(content[:8], "little") :]
    return found
