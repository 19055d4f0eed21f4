"""One training run on one process: what the loop works with, and how it is stored and taken up again."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..families.live_prompts import LivePromptTable
from ..families.pipeline import PipelineFamily
from ..families.prompt_table import PromptTable
from ..families.roles import Roles
from ..families.stored_prompts import StoredPromptTable
from ..files import append_jsonl
from ..ledger import Ledger
from ..method_facts import frozen_rows, needs_degraded_prompts
from ..pairs.store import PairStore
from ..recipe import Recipe
from ..targets import TargetRows
from .beta import read_choice
from .checkpoint import Checkpoint, latest_checkpoint, remove_leftovers, save_checkpoint
from .data import Batches, MicroBatch, measures_contrast, noise_path_on, pairs_used
from .metrics import MetricSums, sync_metrics, truncate_metrics
from .moving_reference import MovingReference
from .optimizer import MovingAverage, load_optimizer_state, make_optimizer, optimizer_state
from .preview import draw_preview, is_preview_step, preview_prompts
from .reference_rows import ReferenceRows
from .result import save_result
from .rounding import stand_ins
from .step import make_step
from .target_models import target_models
from .told import text_folder
from .watch import Watch


class Run:
    """Roles, optimizer, batches and files of a run.

    Args:
        recipe: what to train.
        store: the pairs.
        output: the run's folder, claimed.
        family: the model; its denoiser becomes the policy.
        accelerator: device and processes.
    """

    def __init__(
        self, recipe: Recipe, store: PairStore, output: Path, family: PipelineFamily, accelerator: Accelerator
    ) -> None:
        settings = recipe.training
        self.recipe, self.store, self.output, self.family, self.accelerator = recipe, store, output, family, accelerator
        self.settings = settings
        self.is_main: bool = accelerator.is_main_process
        self.preview_prompts = preview_prompts(recipe, store)
        self.table: PromptTable = (
            StoredPromptTable(family, self._prompts(), text_folder(store, output), device="cpu")
            if settings.text == "stored"
            else LivePromptTable(family, self._prompts(), offload=recipe.model.offload)
        )
        self.batches = Batches(
            recipe,
            store,
            self.table,
            family.noise_path,
            device=accelerator.device,
            rank=accelerator.process_index,
            processes=accelerator.num_processes,
        )
        noise_path = noise_path_on(family.noise_path, accelerator.device)
        self.rows = (
            None if settings.reference_rows is None else ReferenceRows(recipe, store, family, noise_path, self.batches)
        )
        asks_frozen = self._asks_frozen()
        self.roles = (
            Roles.lora(family, settings.lora, recipe.seed, mixed_precision=settings.mixed_precision)
            if settings.parameters == "lora"
            else Roles.full(
                family,
                recipe.model.frozen_dtype,
                mixed_precision=settings.mixed_precision,
                trained_dtype=settings.trained_dtype,
                reference=asks_frozen,
            )
        )
        if asks_frozen:
            self.roles.add_target_models(target_models(recipe))
        moving = recipe.objective.reference
        self.moving_reference = MovingReference(moving, self.roles) if moving is not None else None
        if settings.gradient_checkpointing:
            self.roles.enable_gradient_checkpointing()
        self.policy = accelerator.prepare_model(self.roles.trained)
        self.roles.set_wrapped(self.policy)
        if recipe.model.offload:
            self.roles.offload_reference()
        if settings.compile:
            self.roles.compile()
        self.parameters = self.roles.trainable_parameters()
        self.optimized = stand_ins(self.parameters)
        self.optimizer = make_optimizer(settings.optimizer, self.optimized)
        self.average = MovingAverage(self.parameters, settings.ema_decay) if settings.ema_decay is not None else None
        self.step = make_step(recipe, self.roles.predict, noise_path)
        self.ledger = Ledger()
        self.watch = Watch()

    def _prompts(self) -> list[str]:
        rows = [self.store.rows[number] for number in pairs_used(self.recipe, len(self.store))]
        prompts = [row["prompt"] for row in rows] + ([""] if self.settings.caption_dropout else [])
        if needs_degraded_prompts(self.recipe) or measures_contrast(self.recipe, self.store):
            prompts += [row["degraded_prompt"] for row in rows]
        return prompts + (["", *self.preview_prompts] if self.preview_prompts else [])

    def _asks_frozen(self) -> bool:
        """Whether a frozen network will be asked: in steps, for rows that are missing, or to measure automatic beta."""
        if self.recipe.objective.beta == "auto" and read_choice(self.output) is None:
            return True
        stored = self.rows is not None and self.rows.are_whole(self.settings.max_steps)
        return frozen_rows(self.recipe) > 0 and not stored

    def prepare_rows(self, first: int) -> None:
        """With `training.reference_rows`: make what steps `first` and later lack, then forget who was asked for it."""
        if self.rows is None:
            return
        accelerator, steps = self.accelerator, self.settings.max_steps
        self.rows.make_missing(
            self.roles.predict, first, steps, rank=accelerator.process_index, wait=accelerator.wait_for_everyone
        )
        self.roles.forget_reference()
        self.batches.degraded = False

    def rows_of(self, micro: MicroBatch) -> TargetRows | None:
        """Stored targets and reference predictions of a micro batch; None: the step asks for them itself."""
        return None if self.rows is None else self.rows.target_rows(micro)

    @property
    def metrics_file(self) -> Path:
        """One row per optimizer step."""
        return self.output / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of step-NNNNNN folders."""
        return self.output / "checkpoints"

    def trained_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of what is trained, by name."""
        return {name: tuple(parameter.shape) for name, parameter in self.parameters.items()}

    def forget_gradients(self) -> None:
        """So that the next backward begins at zero."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def is_last(self, done: int) -> bool:
        """Whether no step follows: all are done, or the run has stopped early."""
        return done == self.settings.max_steps or self.watch.stopped is not None

    def smaller_batches(self) -> dict[str, int]:
        """{"micro_batch_pairs": n} where memory did not suffice for the recipe's, else {}."""
        pairs = self.batches.micro_batch_pairs
        return {"micro_batch_pairs": pairs} if pairs < self.settings.micro_batch_pairs else {}

    def metric_sums(self) -> MetricSums:
        """Empty sums for one optimizer step; a backward row costs 2F, and 3F when its forward is run again."""
        backward = 3 if self.settings.gradient_checkpointing else 2
        return MetricSums(self.accelerator.device, self.family.noise_path.num_train_timesteps, backward)

    def resume(self) -> int:
        """Take up the newest whole checkpoint; returns how many steps are done."""
        if self.is_main:
            remove_leftovers(self.output)
            remove_leftovers(self.checkpoints)
        checkpoint = latest_checkpoint(self.checkpoints)
        if checkpoint is not None:
            self.roles.load_state(checkpoint.tensors["trained"])
            load_optimizer_state(self.optimizer, self.optimized, checkpoint.tensors["optimizer"])
            if self.average is not None:
                self.average.load(checkpoint.tensors["average"])
            if self.moving_reference is not None:
                self.moving_reference.load(checkpoint.tensors["reference"])
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(checkpoint.extra["scaler"])
            self.ledger = Ledger(**checkpoint.extra["cost"])
            fitting = checkpoint.extra.get("micro_batch_pairs", self.settings.micro_batch_pairs)
            self.batches.micro_batch_pairs = min(fitting, self.settings.micro_batch_pairs)
            self.watch = Watch(**checkpoint.extra.get("watch", {}))
        done = checkpoint.step if checkpoint is not None else 0
        if self.is_main:
            truncate_metrics(self.metrics_file, done)
        self.accelerator.wait_for_everyone()
        return done

    def checkpoint(self, done: int) -> None:
        """Every so many steps and after the last, write down all that the next step depends on."""
        due = done % self.settings.checkpoint_every_steps == 0 or self.is_last(done)
        if not (due and self.is_main):
            return
        tensors = {"trained": self.roles.state(), "optimizer": optimizer_state(self.optimizer, self.optimized)}
        if self.average is not None:
            tensors["average"] = self.average.average
        if self.moving_reference is not None:
            tensors["reference"] = self.moving_reference.weights
        scaler = self.accelerator.scaler
        extra = {
            "cost": self.ledger.as_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "watch": self.watch.as_dict(),
            **self.smaller_batches(),
        }
        sync_metrics(self.metrics_file)
        save_checkpoint(self.checkpoints, Checkpoint(done, tensors, extra), self.settings.keep_checkpoints)

    def record(self, row: dict[str, Any]) -> None:
        """Append to metrics.jsonl and tell the trackers."""
        if self.is_main:
            append_jsonl(self.metrics_file, row)
        if self.settings.trackers:
            numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
            self.accelerator.log(numbers, step=row["step"])

    def preview(self, done: int) -> None:
        """Draw pictures when it is time for them and they are not there yet."""
        path = self.output / "previews" / f"step-{done:06d}.png"
        due = is_preview_step(self.recipe, done, last=self.is_last(done))
        if not (self.is_main and due) or path.exists():
            return
        with self.average.in_place() if self.average is not None else contextlib.nullcontext():
            draw_preview(self.recipe, self.family, self.roles.predict, self.preview_prompts, self.table, path)

    def finish(self) -> None:
        """Close the trackers, save the result."""
        for tracker in self.accelerator.trackers:
            tracker.finish()
        if self.is_main:
            save_result(self.recipe, self.output, self.roles, self.average, self.ledger, self.store)
        self.accelerator.wait_for_everyone()
