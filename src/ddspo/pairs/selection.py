"""Pairs left out because the reference hardly tells their two prompts apart (`contrast`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import read_json
from .shards import Layout


def contrast_file(folder: Path, shard: int) -> Path:
    """Where the contrasts of a shard's pairs stand."""
    return folder / f"contrast-{shard:05d}.json"


@dataclass(frozen=True)
class Selection(Layout):
    """Some pairs of another layout, numbered anew.

    Attributes:
        whole: the layout with all pairs.
        chosen: their numbers in it, rising, [pairs].
    """

    whole: Layout
    chosen: Any  # NDArray[np.int64]

    def place(self, pair: int) -> tuple[int, int]:
        """(shard, row in it) of the pair with this number."""
        return self.whole.place(int(self.chosen[pair]))


def with_contrast(layout: Layout, ids: Sequence[str], minimum: float) -> Selection:
    """The pairs whose measured contrast is at least `minimum`.

    Args:
        layout: all pairs.
        ids: of the pairs in their order.
        minimum: in units of the contrast.

    Raises:
        UserError: a pair is not measured, or none is left.
    """
    contrasts: dict[str, float] = {}
    for number in range(layout.shards):
        path = contrast_file(layout.folder, number)
        if not path.exists():
            raise UserError(
                f"pairs.min_contrast: {path} does not exist; run `ddspo pairs` again with pairs.contrast_draws, it "
                "measures the pairs that are there"
            )
        contrasts |= read_json(path)["contrast"]
    missing = [pair for pair in ids if pair not in contrasts]
    if missing:
        raise UserError(
            f"pairs.min_contrast: pair {missing[0]} in {layout.folder} has no measured contrast; delete "
            "contrast-*.json there and run `ddspo pairs` again"
        )
    chosen = np.array([number for number, pair in enumerate(ids) if contrasts[pair] >= minimum], dtype=np.int64)
    if not len(chosen):
        highest = max(contrasts.values(), default=0.0)
        raise UserError(
            f"pairs.min_contrast: none of {len(ids)} pairs reaches {minimum:g} (highest {highest:.3g}); lower it"
        )
    return Selection(layout.folder, len(chosen), layout.pairs_per_shard, layout, chosen)
