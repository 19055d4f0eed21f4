"""Pairs of several latent shapes: every shard holds one shape, and `pairs.json` lists the shards.

    {"pairs": 1000, "shards": [{"name": "shard-00000-00", "pairs": 37, "left_out": [5]}, ...], ...}

The pairs are numbered through the shards in that order, without the rows that are left out (repeats of earlier pairs).
The file is written last: without it the folder is not finished.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import read_json
from .shards import Layout

MIXED_FORMAT = "mixed 1"
"""version of this layout, recorded in the folder's settings"""
MANIFEST = "pairs.json"


@dataclass(frozen=True)
class MixedLayout(Layout):
    """Which files hold which pairs, where shards differ in size.

    Attributes:
        names: what the files of each shard are called.
        sizes: how many rows each shard has.
        places: (shard, row) of every pair, [pairs, 2].
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    places: Any  # NDArray[np.int32]

    @classmethod
    def read(cls, folder: Path) -> MixedLayout:
        """From the folder's `pairs.json`.

        Raises:
            UserError: it is not there, so the folder is not finished.
        """
        if not (folder / MANIFEST).exists():
            raise UserError(f"{folder} is not finished (no {MANIFEST}); run the same `ddspo import` command again")
        return cls.of(folder, read_json(folder / MANIFEST)["shards"])

    @classmethod
    def of(cls, folder: Path, shards: list[dict[str, Any]]) -> MixedLayout:
        """From the list of shards: name, pairs and left_out of each."""
        places = [
            (number, row)
            for number, shard in enumerate(shards)
            for row in sorted(set(range(shard["pairs"])) - set(shard.get("left_out", ())))
        ]
        return cls(
            folder,
            pairs=len(places),
            pairs_per_shard=0,
            names=tuple(str(shard["name"]) for shard in shards),
            sizes=tuple(int(shard["pairs"]) for shard in shards),
            places=np.array(places, dtype=np.int32).reshape(-1, 2),
        )

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return len(self.names)

    def numbers(self, shard: int) -> range:
        """The rows of a shard."""
        return range(self.sizes[shard])

    def place(self, pair: int) -> tuple[int, int]:
        """(shard, row in it) of the pair with this number."""
        shard, row = self.places[pair].tolist()
        return shard, row

    def name(self, shard: int) -> str:
        """What the files of a shard are called."""
        return self.names[shard]
