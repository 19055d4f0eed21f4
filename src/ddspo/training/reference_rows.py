"""Reference and target rows made once: `training.reference_rows: FOLDER`.

Draws are stateless, so what the frozen networks (reference, winning and losing model) are asked at every place of every
global batch is known before training. Their predictions are made in the micro batches and calls of training and stored
exactly (`row_store`); training on them then gives, bit for bit, what it gives with the networks in memory. What is
stored are predictions, not targets: the target source runs again on them, at no cost and without a second copy.

The folder's settings say what the rows depend on. The number of steps is not among them: steps already made serve every
run, a longer one adds the rest. Objective, beta, learning rate and whatever else the reference does not see may differ,
so a sweep pays once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..diffusion.noise_path import NoisePath
from ..diffusion.states import states
from ..errors import UserError
from ..files import claim_folder, read_json, require_free_space
from ..ledger import FILE_NAME, Ledger
from ..method_facts import asks_reference, frozen_rows, unstorable
from ..progress import announce, progress
from ..recipe import Recipe
from ..targets import TargetRows, target_source
from ..tensors import Conditioning, RolePredict
from .data import Batches, MicroBatch, to_device
from .row_settings import row_settings
from .row_store import Batch, RowStore
from .setup import check_pairs, check_texts, start_accelerator

if TYPE_CHECKING:
    from ..families.pipeline import PipelineFamily
    from ..pairs.store import PairStore

SHARD_BYTES = 256 * 2**20
"""a step's rows are cut into shards of about this size, since a shard is put together in memory"""
_POLL_SECONDS = 0.5


class ReferenceRows:
    """The rows of one run, in a folder that other runs may share.

    Args:
        recipe: decides what is asked.
        store: the pairs.
        family: its fingerprint and precision are read.
        noise_path: as the step has it.
        batches: of this process.

    Raises:
        UserError: nothing can be stored for this objective.
    """

    def __init__(
        self, recipe: Recipe, store: PairStore, family: PipelineFamily, noise_path: NoisePath, batches: Batches
    ) -> None:
        if recipe.training.reference_rows is None:
            raise ValueError("training.reference_rows names no folder")
        if reason := unstorable(recipe):
            raise UserError(reason)
        self.recipe, self.noise_path, self.batches = recipe, noise_path, batches
        self.rows = RowStore(recipe.training.reference_rows)
        self.settings = row_settings(recipe, store, family, batches)
        self.bytes_per_pair = frozen_rows(recipe) * 4 * torch.Size(store.latent_shape).numel()
        self._source, self._reference = target_source(recipe.target), asks_reference(recipe)

    @property
    def folder(self) -> Path:
        """Where the rows lie."""
        return self.rows.folder

    def target_rows(self, micro: MicroBatch) -> TargetRows:
        """Targets and reference predictions of a micro batch, from what is stored.

        Raises:
            UserError: rows are missing, damaged or altered.
        """
        device = micro.pairs.timestep.device
        said = iter([to_device(prediction, device) for prediction in self.rows.read(micro.step, micro.positions)])

        def repeat(role: str, x_t: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
            prediction = next(said)
            if prediction.shape != x_t.shape:
                raise UserError(f"{self.folder} holds rows of other calls; delete it and run the same command again")
            return prediction

        return self._ask(micro, repeat)

    def are_whole(self, steps: int) -> bool:
        """Whether nothing is missing of `steps` steps, so that no frozen network will be asked."""
        return all(self.rows.is_whole(*place, batches) for place, batches in self._places(0, steps))

    def make_missing(
        self, predict: RolePredict, first: int, steps: int, *, rank: int = 0, wait: Callable[[], None] = lambda: None
    ) -> None:
        """Make what is missing of steps `first` .. `steps` - 1; every process makes its share and waits for the others.

        Args:
            predict: the frozen networks.
            first: steps before it are done.
            steps: of the run.
            rank: of this process.
            wait: returns when all processes have called it.

        Raises:
            UserError: the folder holds other rows, or the disk is too small.
        """
        self._claim(rank == 0, wait)
        shards = list(self._places(first, steps))
        missing = {place: batches for place, batches in shards if not self.rows.is_whole(*place, batches)}
        if missing and rank == 0:
            self._announce(steps, len({step for step, _ in missing}), len(missing) / len(shards) * (steps - first))
        # By the number of the shard, not by its place among the missing ones, which grow fewer as others work.
        mine = [place for place, _ in shards[rank :: self.batches.processes] if place in missing]
        if mine:
            with progress(len(mine), "reference rows", "shard") as bar:
                for place in mine:
                    self._make(place, missing[place], predict)
                    bar.update()
        for place, batches in missing.items():  # files tell, not the process group, which would lose patience
            while not self.rows.is_whole(*place, batches):
                time.sleep(_POLL_SECONDS)
        if rank == 0 and (missing or not self.rows.has_cost()):  # an earlier attempt may have been killed before it
            self.rows.save_cost()

    def _ask(self, micro: MicroBatch, predict: RolePredict) -> TargetRows:
        x_t = states(micro.pairs, self.noise_path)
        return self._source(micro.pairs, x_t, predict, self.noise_path, reference=self._reference)

    def _make(self, place: tuple[int, int], of_shard: Sequence[Sequence[int]], predict: RolePredict) -> None:
        (step, shard), cost, batches = place, Ledger(), []
        for positions in of_shard:
            calls: list[Tensor] = []

            def record(role: Any, x_t: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
                calls.append(predict(role, x_t, timestep, conditioning))  # noqa: B023 (called in this turn only)
                return calls[-1]  # noqa: B023

            cost.add(self._ask(self.batches.micro_batch(step, positions), record).network_evaluations)
            batches.append(Batch(positions, calls))
        self.rows.write(step, shard, batches, cost)

    def _shards(self, step: int) -> list[list[Sequence[int]]]:
        """The micro batches of all processes at a step, cut into shards of about `SHARD_BYTES`."""
        shards: list[list[Sequence[int]]] = []
        room = 0
        for positions in self.batches.cut_of_all(step):
            size = len(positions) * self.bytes_per_pair
            if not shards or size > room:
                shards.append([])
                room = SHARD_BYTES
            shards[-1].append(positions)
            room -= size
        return shards

    def _places(self, first: int, steps: int) -> Iterator[tuple[tuple[int, int], list[Sequence[int]]]]:
        """((step, shard), its micro batches) of steps `first` .. `steps` - 1; each step is cut once."""
        for step in range(first, steps):
            for shard, batches in enumerate(self._shards(step)):
                yield (step, shard), batches

    def _claim(self, is_main: bool, wait: Callable[[], None]) -> None:
        """The main process claims the folder, then the others check that their settings are the same."""
        record = self.folder / "settings.json"
        if is_main:
            # Settings under which nothing was made bind nobody.
            if record.exists() and self.rows.is_empty() and read_json(record) != self.settings:
                record.unlink()
            claim_folder(self.folder, self.settings, "reference rows")
        wait()
        claim_folder(self.folder, self.settings, "reference rows")

    def _announce(self, steps: int, missing: int, share: float) -> None:
        """One line on what is ahead; refuse when the disk cannot hold it."""
        pairs = self.recipe.training.global_batch_pairs
        announce(
            f"reference rows: {steps} steps x {pairs} pairs x {frozen_rows(self.recipe)} rows, "
            f"{steps * pairs * self.bytes_per_pair / 1e9:.3f} GB in {self.folder}; {missing} steps to make"
        )
        require_free_space(self.folder, int(share * pairs * self.bytes_per_pair), "the rest of the reference rows")


def make_reference_rows(
    recipe: Recipe, pairs: Path, folder: Path, *, family: PipelineFamily | None = None
) -> dict[str, float]:
    """Make all rows that a run needs, or that are missing, without training; `train` does the same by itself.

    Args:
        recipe: of the run; `training.reference_rows` is not looked at.
        pairs: a folder made by `build_pairs`.
        folder: receives the rows: new, or of the same settings.
        family: the model if it is loaded already, on the right device; its denoiser is let go and loads again.

    Returns:
        what the rows have cost: {"seconds", "network_evaluations"}.

    Raises:
        UserError: as `train`, and where nothing can be stored for this objective.
    """
    from ..families.load import load_model
    from ..pairs.store import PairStore
    from .run import Run  # which reads this module for runs that have rows

    training = recipe.training.model_copy(update={"reference_rows": folder})
    recipe = recipe.model_copy(update={"training": training})
    work = folder / ".work"  # what Run would write into a run's folder, where pairs are read-only
    accelerator = start_accelerator(recipe, work)
    store = PairStore(pairs, min_contrast=recipe.pairs.min_contrast)
    check_texts(recipe, store)
    family = family or load_model(recipe.model, accelerator.device)
    check_pairs(recipe, store, family)
    try:
        Run(recipe, store, work, family, accelerator).prepare_rows(0)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"out of memory at training.micro_batch_pairs = {training.micro_batch_pairs}; lower it, then run again"
        ) from error
    accelerator.wait_for_everyone()
    family.release("denoiser")
    return dict(read_json(folder / FILE_NAME))
