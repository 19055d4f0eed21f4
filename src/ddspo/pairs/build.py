"""Make a folder of pairs: plan it, claim it, make what is missing, shard by shard.

The shard is the unit of work: made whole or not at all, always in the same batches. So neither an interruption nor the
number of processes changes any result. (Floating-point sums may depend on what else is in a batch: therefore a batch
never depends on what is already done, and its size belongs to the settings. On an accelerator, "the same" holds as far
as its kernels are deterministic.)
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..diffusion.sampler import network_evaluations
from ..families.base import Family
from ..files import claim_folder, read_json, require_free_space
from ..folder_lock import only_one
from ..ledger import Ledger
from ..processes import Process, local_device, this_process
from ..progress import announce, progress
from ..recipe import Recipe
from ..tensors import WinLose
from .make import Drawn, PairMaker
from .plan import PlannedPair, fingerprint, plan_pairs, read_degraded
from .store import FORMAT, Layout, is_whole, write_shard
from .trajectory import Kept, Trajectory

_INDEX_BYTES_PER_PAIR = 1024
_POLL_SECONDS = 0.5
_CLAIM_PATIENCE_SECONDS = 600.0


@dataclass(frozen=True)
class PairsEstimate:
    """What a recipe's pairs will take."""

    pairs: int
    network_evaluations: int
    bytes_on_disk: int


@dataclass(frozen=True)
class PairsSummary:
    """What a finished folder of pairs holds, and what it cost over all processes and attempts."""

    folder: Path
    pairs: int
    shards: int
    network_evaluations: float
    seconds: float
    """summed over processes"""
    bytes_on_disk: int


def estimate(recipe: Recipe, family: Family, prompts: int) -> PairsEstimate:
    """Foretell size and cost without making anything.

        network evaluations = pairs · 2 sides · network calls per picture · (2 with guidance, else 1)

    Args:
        prompts: how many prompts have a degraded prompt.
    """
    sampling = recipe.pairs.sampling
    pairs = recipe.pairs.count or prompts
    latents = 1 + recipe.pairs.trajectory_states
    values = math.prod(family.latent_shape(**_size_px(recipe)))
    scheduler = family.scheduler(sampling.sampler, **_size_px(recipe))
    per_picture = network_evaluations(scheduler, sampling.steps, sampling.guidance_scale)
    return PairsEstimate(
        pairs=pairs,
        network_evaluations=2 * pairs * per_picture,
        bytes_on_disk=pairs * (2 * latents * values * family.dtype.itemsize + _INDEX_BYTES_PER_PAIR),
    )


def build_pairs(recipe: Recipe, degraded: Path, output: Path, *, family: Family | None = None) -> PairsSummary:
    """Make every pair of the recipe's plan that is not there yet; `PairStore(output)` reads them.

    Interrupt it at any time: the same call again finishes the rest, bit for bit as if it had never stopped. Several
    processes (torchrun, or RANK and WORLD_SIZE set by hand) on one file system share the shards; each returns when all
    shards are there.

    Args:
        degraded: degraded.jsonl.
        output: the pairs folder: new, or of the same settings.
        family: the reference; None: the recipe's `model`, on this process's device.

    Raises:
        UserError: the folder holds pairs of other settings, the disk is too small, degraded.jsonl is malformed, memory
            does not suffice for a batch, the network gives numbers that are not finite, or another process is making
            pairs in this folder.
    """
    process = this_process()
    with only_one(output, "ddspo pairs", main=process.is_main):
        return _build(recipe, degraded, output, family, process)


def _build(recipe: Recipe, degraded: Path, output: Path, family: Family | None, process: Process) -> PairsSummary:
    prompts = read_degraded(degraded)
    family = family or load_reference(recipe)
    plan = plan_pairs(prompts, recipe.pairs.count, recipe.seed)
    layout = Layout(output, len(plan), recipe.pairs.pairs_per_shard)
    shards = _Shards(layout, plan, family.fingerprint())
    maker = PairMaker(family, recipe.pairs, **_size_px(recipe), offload=recipe.model.offload)
    settings = {**_settings(recipe, family, shards, maker.kept), "degraded_fingerprint": fingerprint(prompts)}
    claim(output, settings, process)

    mine = process.share(layout.shards)
    missing = [shard for shard in mine if not shards.is_whole(shard)]
    if missing:
        sizes = {shard: len(layout.numbers(shard)) for shard in mine}
        to_make = sum(sizes[shard] for shard in missing)
        _announce(estimate(recipe, family, len(prompts)), layout, to_make, process)
        with progress(sum(sizes.values()), "pairs", "pairs", done=sum(sizes.values()) - to_make) as bar:
            for shard in missing:
                shards.make(shard, maker, bar)
    shards.wait_for(sorted(set(range(layout.shards)) - set(mine)))
    return _summarize(layout, process)


@dataclass(frozen=True)
class _Shards:
    """The plan, cut into shards."""

    layout: Layout
    plan: Sequence[PlannedPair]
    reference_fingerprint: str

    def pairs(self, shard: int) -> Sequence[PlannedPair]:
        numbers = self.layout.numbers(shard)
        return self.plan[numbers.start : numbers.stop]

    def is_whole(self, shard: int) -> bool:
        return is_whole(self.layout, shard, [pair.id(self.reference_fingerprint) for pair in self.pairs(shard)])

    def make(self, shard: int, maker: PairMaker, bar: Any) -> None:
        cost, pairs = Ledger(), self.pairs(shard)
        batches: list[Drawn] = []
        for start in range(0, len(pairs), maker.pairs_per_batch):
            batches.append(maker.make(pairs[start : start + maker.pairs_per_batch], cost))
            bar.update(len(batches[-1].x_0.win))
        x_0 = _joined([batch.x_0 for batch in batches])
        states = _joined([batch.states for batch in batches if batch.states is not None]) if maker.kept else None
        trajectory = Trajectory(states.win, states.lose, maker.kept.timesteps) if states and maker.kept else None
        rows = [maker.index_row(pair, self.reference_fingerprint) for pair in pairs]
        write_shard(self.layout, shard, x_0, rows, cost, trajectory)

    def wait_for(self, shards: Sequence[int]) -> None:
        """Return when these shards of other processes are there. Files tell: no process group, so no time limit."""
        told = False
        for shard in shards:
            while not self.is_whole(shard):
                if not told:
                    announce("pairs: waiting for the shards of the other processes")
                    told = True
                time.sleep(_POLL_SECONDS)


def load_reference(recipe: Recipe) -> Family:
    """The recipe's model, on this process's device."""
    from ..families.load import load_model

    return load_model(recipe.model, local_device())


def _size_px(recipe: Recipe) -> dict[str, int | None]:
    return {"height_px": recipe.model.height_px, "width_px": recipe.model.width_px}


def _joined(parts: Sequence[WinLose]) -> WinLose:
    return WinLose(torch.cat([part.win for part in parts]), torch.cat([part.lose for part in parts]))


def _settings(recipe: Recipe, family: Family, shards: _Shards, kept: Kept | None) -> dict[str, Any]:
    """Everything but the prompts that decides a bit of the result."""
    settings = {
        "format": FORMAT,
        "count": shards.layout.pairs,
        "pairs_per_shard": shards.layout.pairs_per_shard,
        "seed": recipe.seed,
        "reference_fingerprint": shards.reference_fingerprint,
        "dtype": str(family.dtype),
        "latent_shape": list(family.latent_shape(**_size_px(recipe))),
        "sampling": recipe.pairs.sampling.model_dump(mode="json"),
    }
    if kept is not None:
        settings["trajectory_states"] = {"calls": kept.calls, "timesteps": kept.timesteps.tolist()}
    return settings


def claim(folder: Path, settings: dict[str, Any], process: Process) -> None:
    """The main process claims the folder; the others wait for that, then check that their settings are the same."""
    record = folder / "settings.json"
    if process.is_main:
        # Settings under which nothing was made bind nobody: a batch that did not fit in memory may be made smaller.
        if list(folder.glob("[!.]*")) == [record] and read_json(record) != settings:
            record.unlink()
    else:
        give_up = time.monotonic() + _CLAIM_PATIENCE_SECONDS
        while not (record.exists() and read_json(record) == settings) and time.monotonic() < give_up:
            time.sleep(_POLL_SECONDS)
    claim_folder(folder, settings, "pairs")


def _announce(needs: PairsEstimate, layout: Layout, to_make: int, process: Process) -> None:
    """Say what is ahead; refuse when the disk cannot hold it (the other processes write about as much as this one)."""
    announce(
        f"pairs: {layout.pairs} in {layout.shards} shards, {needs.bytes_on_disk / 1e9:.2f} GB, "
        f"{needs.network_evaluations} network evaluations; {to_make} pairs to make"
        + (f" by this process, {process.count} share the work" if process.count > 1 else "")
    )
    if process.is_main:
        still_needed = needs.bytes_on_disk * to_make * process.count // layout.pairs
        require_free_space(layout.folder, still_needed, f"the rest of {layout.pairs} pairs")


def _summarize(layout: Layout, process: Process) -> PairsSummary:
    """Add up the costs of the shards: each counts once, however often the work was interrupted."""
    costs = [read_json(layout.cost(shard)) for shard in range(layout.shards)]
    evaluations, seconds = (sum(cost[key] for cost in costs) for key in ("network_evaluations", "seconds"))
    if process.is_main:
        Ledger(evaluations, seconds).save(layout.folder)
    return PairsSummary(
        folder=layout.folder,
        pairs=layout.pairs,
        shards=layout.shards,
        network_evaluations=evaluations,
        seconds=seconds,
        bytes_on_disk=sum(path.stat().st_size for path in layout.folder.glob("shard-*")),
    )
