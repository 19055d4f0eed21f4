"""What the network is told about a micro batch besides x_t and timestep: text, and the sizes of imported pictures.

Caption dropout: with probability p a pair's text is '', for all that predict and on both sides, so that the policy
keeps learning its unconditional half, which guidance needs. It is drawn per (step, position) and touches no other draw.
Targets that contrast a prompt with a degraded prompt cannot have it: without text both are the same prediction, the
margin would reward nothing but distance from the reference, and the recipe is refused.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..recipe import Recipe
from ..rng import seed_for
from ..tensors import Conditioning

if TYPE_CHECKING:
    from ..families.prompt_table import PromptTable
    from ..pairs.store import PairStore

Row = dict[str, Any]


def text_folder(store: PairStore, output: Path) -> Path:
    """Where text embeddings lie: with the pairs, for all runs on them; with the run where those are read-only."""
    return (store.folder if os.access(store.folder, os.W_OK) else output) / "text"


def is_dropped(run_seed: int, step: int, position: int, share: float) -> bool:
    """Whether the text at one place of one global batch is left out."""
    return seed_for(run_seed, "train", "caption dropout", step, position) < share * 2**63


def told(
    recipe: Recipe, prompts: PromptTable, rows: Sequence[Row], step: int, positions: Sequence[int], *, degraded: bool
) -> tuple[Conditioning, Conditioning]:
    """(prompt, degraded prompt) of B pairs; without `degraded` the second is the first.

    Args:
        recipe: seed and caption dropout are read.
        prompts: holds every text of the rows and, with dropout, ''.
        rows: of the index, one per pair.
        step: of the optimizer.
        positions: of the pairs in the global batch.
        degraded: whether degraded prompts are needed.
    """
    share = recipe.training.caption_dropout
    texts = [
        "" if share and is_dropped(recipe.seed, step, position, share) else row["prompt"]
        for position, row in zip(positions, rows, strict=True)
    ]
    prompt = _with_sizes(prompts.lookup(texts), rows)
    if not degraded:
        return prompt, prompt
    return prompt, _with_sizes(prompts.lookup([row["degraded_prompt"] for row in rows]), rows)


def size_ids(rows: Sequence[Row]) -> Tensor | None:
    """[B, 6], int64: original height and width, crop top and left, target height and width in pixels, as SDXL has them.

    A pair has one conditioning for both sides, as the margin compares predictions under the same condition. Where its
    two pictures differ in size it is that of the smaller one: neither is told to be finer than it is. None for pairs
    that carry no sizes: they were made at the size they have.
    """
    if not rows or any("original_win_px" not in row for row in rows):
        return None
    ids = []
    for row in rows:
        win, lose = row["original_win_px"], row["original_lose_px"]
        side = "win" if win[0] * win[1] <= lose[0] * lose[1] else "lose"
        ids.append([*row[f"original_{side}_px"], *row[f"crop_{side}_px"], row["height_px"], row["width_px"]])
    return torch.tensor(ids, dtype=torch.int64)


def _with_sizes(conditioning: Conditioning, rows: Sequence[Row]) -> Conditioning:
    ids = size_ids(rows)
    if ids is None:
        return conditioning
    device = next(iter(conditioning.tensors.values())).device
    return Conditioning({**conditioning.tensors, "size_ids": ids.to(device)})
