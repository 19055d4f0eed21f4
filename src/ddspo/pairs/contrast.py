"""What the reference itself makes of a degradation: the contrast of every pair, measured once, and a filter on it.

    contrast = E over timestep and noise of  mean over latent dims of (reference(x_t, c) - reference(x_t, c⁻))²

with x_t from the losing x_0, as in training, in the network's own prediction space. It is the size of the lesson: near
0 both targets are the same, and the pair teaches nothing. K draws per pair cost 2K network evaluations; draw k takes
its timestep from the k-th of K equal parts of the schedule, so that few draws cover it.

A pairs folder gets `contrast-00000.json` per shard, written whole or not at all: settings, cost, {pair id: contrast}.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..diffusion.timesteps import draw_timesteps
from ..errors import UserError
from ..families.base import Family
from ..families.prompt_table import encode_in_batches
from ..files import differences, read_json, write_json
from ..ledger import Ledger
from ..processes import this_process
from ..progress import announce, progress
from ..recipe import Recipe, Timesteps
from ..rng import normal_like_shape, numpy_generator
from .selection import contrast_file
from .shards import Layout
from .store import PairStore

COST_FILE = "contrast.cost.json"
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class ContrastSummary:
    """Contrasts of a folder by pair id, and what measuring them cost over all processes and attempts."""

    contrasts: dict[str, float]
    network_evaluations: float
    seconds: float


def measure_contrast(recipe: Recipe, folder: Path, *, family: Family | None = None) -> ContrastSummary:
    """Measure what is not measured yet, with `recipe.pairs.contrast_draws` draws per pair.

    Draws follow from (run seed, pair id, number of the draw). Several processes share the shards, as in `build_pairs`;
    interrupted, the same call goes on.

    Args:
        folder: pairs with degraded prompts.
        family: the reference; None: the recipe's `model`, on this process's device.

    Raises:
        UserError: pairs without degraded prompts, of another reference, or measured with other settings.
    """
    store, process = PairStore(folder), this_process()
    if any(row.get("degraded_prompt") is None for row in store.rows):
        raise UserError(f"{folder} holds pairs without a degraded prompt; set pairs.contrast_draws to 0")
    settings = {"draws": recipe.pairs.contrast_draws, "seed": recipe.seed}
    groups = _groups(store.layout)
    mine = [number for number in process.share(len(groups)) if not _is_measured(folder, number, settings)]
    if mine:
        family = family or _load(recipe)
        store.check_reference(family.fingerprint())
        meter = _Meter(family, store, recipe)
        with progress(sum(len(groups[number]) for number in mine), "contrast", "pairs") as bar:
            for number in mine:
                cost = Ledger()
                contrasts = meter.measure(groups[number], cost, bar)
                values = {"settings": settings, "cost": cost.as_dict(), "contrast": contrasts}
                write_json(contrast_file(folder, number), values)
    for number in range(len(groups)):
        while not _is_measured(folder, number, settings):
            time.sleep(_POLL_SECONDS)
    return _summarize(folder, len(groups), write=process.is_main)


def _groups(layout: Layout) -> list[list[int]]:
    """The numbers of the pairs in every shard."""
    groups: list[list[int]] = [[] for _ in range(layout.shards)]
    for pair in range(layout.pairs):
        groups[layout.place(pair)[0]].append(pair)
    return groups


def _is_measured(folder: Path, shard: int, settings: dict[str, Any]) -> bool:
    path = contrast_file(folder, shard)
    if not path.exists():
        return False
    lines = differences(read_json(path)["settings"], settings)
    if lines:
        raise UserError(
            f"{path} was measured with other settings ({'; '.join(lines)}); delete {folder}/contrast-*.json "
            "to measure again"
        )
    return True


def _load(recipe: Recipe) -> Family:
    from .build import load_reference

    return load_reference(recipe)


def _summarize(folder: Path, shards: int, *, write: bool) -> ContrastSummary:
    found = [read_json(contrast_file(folder, number)) for number in range(shards)]
    contrasts = {pair: value for each in found for pair, value in each["contrast"].items()}
    evaluations, seconds = (sum(each["cost"][key] for each in found) for key in ("network_evaluations", "seconds"))
    if write:
        write_json(folder / COST_FILE, Ledger(evaluations, seconds).as_dict() | {"seconds": round(seconds, 3)})
        announce(told(contrasts))
    return ContrastSummary(contrasts, evaluations, seconds)


def told(contrasts: dict[str, float]) -> str:
    """The distribution in one line."""
    low, middle, high = np.quantile(list(contrasts.values()), [0.1, 0.5, 0.9])
    return f"contrast of {len(contrasts)} pairs: median {middle:.3g}, 10 % below {low:.3g}, 10 % above {high:.3g}"


class _Meter:
    """Measures pairs in fixed batches."""

    def __init__(self, family: Family, store: PairStore, recipe: Recipe) -> None:
        self.family, self.store, self.seed = family, store, recipe.seed
        self.draws = recipe.pairs.contrast_draws
        self.together = max(1, recipe.pairs.sampling.batch_images // 2)

    def measure(self, pairs: Sequence[int], cost: Ledger, bar: Any) -> dict[str, float]:
        """{pair id: contrast}; a batch holds pairs of one shape."""
        shapes: dict[tuple[int, int, int], list[int]] = {}
        for pair in pairs:
            shapes.setdefault(self.store.shape_of(pair), []).append(pair)
        found: dict[str, float] = {}
        for same in shapes.values():
            for start in range(0, len(same), self.together):
                batch = same[start : start + self.together]
                values = self._batch(batch, cost).tolist()
                found |= {self.store.rows[pair]["id"]: value for pair, value in zip(batch, values, strict=True)}
                bar.update(len(batch))
        return {self.store.rows[pair]["id"]: found[self.store.rows[pair]["id"]] for pair in pairs}

    @torch.no_grad()
    def _batch(self, pairs: Sequence[int], cost: Ledger) -> Tensor:
        """[B] contrasts; both prompts of all pairs in one call per draw."""
        family, rows = self.family, [self.store.rows[pair] for pair in pairs]
        texts = [row["prompt"] for row in rows] + [row["degraded_prompt"] for row in rows]
        conditioning = encode_in_batches(family, texts)
        x_0 = self.store.read(pairs).lose.to(family.device)
        total = torch.zeros(len(pairs), dtype=torch.float64)
        for draw in range(self.draws):
            x_t, timestep = self._noised(x_0, [row["id"] for row in rows], draw)
            twice = torch.cat([x_t, x_t]).to(family.dtype)
            predicted = family.predict(twice, torch.cat([timestep, timestep]), conditioning).float()
            cost.add(len(twice))
            with_prompt, with_degraded = predicted.chunk(2)
            total += (with_prompt - with_degraded).square().flatten(1).mean(1).double().cpu()
        contrast = total / self.draws
        if not contrast.isfinite().all():
            raise UserError("the network gave numbers that are not finite; set model.frozen_dtype to bf16 or fp32")
        return contrast

    def _noised(self, x_0: Tensor, ids: Sequence[str], draw: int) -> tuple[Tensor, Tensor]:
        path = self.family.noise_path
        uniforms = [(draw + numpy_generator(self.seed, "contrast", "t", i, draw).random()) / self.draws for i in ids]
        timestep = draw_timesteps(Timesteps(), path, torch.tensor(uniforms)).to(x_0.device)
        shape = tuple(x_0.shape[1:])
        noise = torch.stack([normal_like_shape(shape, self.seed, "contrast", "noise", i, draw) for i in ids])
        return path.add_noise(x_0, noise.to(x_0.device), timestep), timestep
