"""A small pairs stage: recipe, degraded prompts, and a family that can be watched and stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ddspo.recipe import Pairs, Recipe, Sampling
from ddspo.tensors import Conditioning

STEPS = 3
PROMPTS = ["red cat", "blue cat", "a red car", "two blue cats", "the cat on a car"]


def write_degraded(path: Path, prompts: Sequence[tuple[str, Sequence[str]]]) -> Path:
    """degraded.jsonl with these prompts and their variants."""
    how = {"kind": "drop", "change": "x"}
    rows = [
        {"id": f"id{n}", "prompt": prompt, "degraded_prompts": variants, "how": [how] * len(variants)}
        for n, (prompt, variants) in enumerate(prompts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def small_recipe(*, count: int | None = None, pairs_per_shard: int = 2, **sampling: Any) -> Recipe:
    """Two pairs per shard and per batch, three steps, with guidance."""
    drawn = Sampling(**{"steps": STEPS, "guidance_scale": 3.0, "batch_images": 4, **sampling})
    return Recipe(pairs=Pairs(count=count, pairs_per_shard=pairs_per_shard, sampling=drawn))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that the settings decide: all but the costs."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if "cost" not in path.name}


class Spy:
    """A family that shows its network calls and can be stopped at one of them."""

    def __init__(self, family: Any, stop_at: int | None = None) -> None:
        self.family, self.stop_at = family, stop_at
        self.calls: list[tuple[Tensor, Conditioning]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.family, name)

    def predict(self, x_t: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        if len(self.calls) == self.stop_at:
            raise KeyboardInterrupt
        self.calls.append((x_t, conditioning))
        return self.family.predict(x_t, timestep, conditioning)
