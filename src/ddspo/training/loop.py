"""The training loop: read it from top to bottom. What it calls is in the files beside it.

Every draw follows from (run seed, step, position) and every checkpoint holds all that the next step depends on. So the
same command after an interruption gives, on one process, the result of the unbroken run bit for bit.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..errors import UserError
from ..families.load import load_model
from ..families.pipeline import PipelineFamily
from ..folder_lock import only_one
from ..method_facts import OBJECTIVES
from ..pairs.store import PairStore
from ..progress import announce, progress
from ..recipe import Recipe
from .beta import settle_beta
from .fallback import fit_in_memory
from .guards import check_gradients, check_signal, refuse_uncompiled, stop_unless_finite
from .metrics import MetricSums, read_metrics
from .optimizer import learning_rate, set_learning_rate
from .result import TrainSummary, finished, summarize
from .rounding import rounded_step
from .run import Run
from .setup import check_disk, check_pairs, check_texts, claim_output, start_accelerator, tracker_config


def train(recipe: Recipe, pairs: Path, output: Path, *, family: PipelineFamily | None = None) -> TrainSummary:
    """Train a policy on stored pairs; the same call again resumes, or returns the finished result.

    `output` receives recipe.yaml, settings.json, environment.json, metrics.jsonl, checkpoints/, previews/, cost.json,
    beta.json if beta is automatic and, last, policy/ (what diffusers loads).

    Args:
        recipe: model, target, objective and training are read.
        pairs: a folder made by `build_pairs`.
        output: the run's folder; new, empty, or of the same run.
        family: the model if it is loaded already, on the right device; training changes its denoiser.

    Raises:
        UserError: another run's folder, one that another process trains in, pairs of another reference, no space, no
            memory, a network that does not compile, or numbers that are not finite; what was made until then stays.
    """
    accelerator = start_accelerator(recipe, output)
    store = PairStore(pairs, min_contrast=recipe.pairs.min_contrast)
    if store.left_out:
        announce(f"train: {store.left_out} of {store.left_out + len(store)} pairs left out by pairs.min_contrast")
    check_texts(recipe, store)
    with only_one(output, "ddspo train", main=accelerator.is_main_process):
        return _train(recipe, store, output, family, accelerator)


def _train(
    recipe: Recipe, store: PairStore, output: Path, family: PipelineFamily | None, accelerator: Accelerator
) -> TrainSummary:
    if accelerator.is_main_process:
        claim_output(recipe, store, output)
    accelerator.wait_for_everyone()
    if finished(output):
        return summarize(output)
    family = family or load_model(recipe.model, accelerator.device)
    check_pairs(recipe, store, family)
    try:
        run = Run(recipe, store, output, family, accelerator)
        check_disk(recipe, run.trained_shapes(), output)
        train_steps(run)
        run.finish()
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"out of memory at training.micro_batch_pairs = {recipe.training.micro_batch_pairs}; {_mend(recipe)}"
        ) from error
    except RuntimeError as error:
        refuse_uncompiled(error)
        raise
    return summarize(output)


def _mend(recipe: Recipe) -> str:
    """What helps when memory has given out."""
    name, checkpointing = recipe.objective.name, "set training.gradient_checkpointing"
    if OBJECTIVES[name].across_pairs:
        return f"{checkpointing} and run again, or start another run with fewer: the result of '{name}' depends on it"
    return f"lower it or {checkpointing}, and run again: the run goes on from its last checkpoint"


def train_steps(run: Run) -> None:
    """From the last checkpoint to the last step, which comes sooner where the watch over drift says stop."""
    first = run.resume()
    settle_beta(run)
    run.prepare_rows(first)
    if run.settings.trackers:
        run.accelerator.init_trackers("ddspo", config=tracker_config(run.recipe))
    run.preview(first)
    with progress(run.settings.max_steps, "train", "step", done=first) as bar:
        for step in range(first, run.settings.max_steps):
            if run.watch.stopped:
                break
            run.record(train_step(run, step, check=step == first))
            run.checkpoint(step + 1)
            run.preview(step + 1)
            bar.update()


def train_step(run: Run, step: int, *, check: bool = False) -> dict[str, Any]:
    """One optimizer step, number `step` (0, 1, ...); returns its row of metrics.jsonl.

    Args:
        run: is moved one step on.
        step: decides data, noise and learning rate.
        check: make sure that gradients arrive and, at step 0, that there is something to learn; later all pairs of a
            batch may rightly be settled.

    Raises:
        UserError: a check failed, or loss or gradient are not finite; the parameters are as before the step then.
    """
    settings, scaler, began = run.settings, run.accelerator.scaler, time.perf_counter()
    rate = learning_rate(settings.optimizer, step, settings.max_steps)
    set_learning_rate(run.optimizer, rate)
    sums = fit_in_memory(run, lambda: accumulate_gradients(run, step))
    if check:
        check_gradients(run.parameters)
    if scaler is not None:
        scaler.unscale_(run.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(run.parameters.values(), settings.optimizer.max_gradient_norm)

    # The one place in a step where the host waits for the device.
    *reduced, gradient_norm = torch.cat([run.accelerator.reduce(sums.vector, "sum"), norm[None].float()]).tolist()
    row = read_metrics(sums, reduced)
    stop_unless_finite(step + 1, row["loss"], gradient_norm, scaler, run.checkpoints)
    if check and step == 0:
        check_signal(row, gradient_norm)
    optimizer_step(run, step)
    if run.average is not None:
        run.average.update(step)
    if run.moving_reference is not None:
        run.moving_reference.follow(step + 1)
    run.ledger.add(row.pop("network_evaluations"))
    row |= run.watch.see(row | {"step": step + 1}, run.recipe.objective.auto, settings.max_steps)
    seconds = time.perf_counter() - began
    return {
        "step": step + 1,
        **row,
        **run.smaller_batches(),
        "gradient_norm": gradient_norm if math.isfinite(gradient_norm) else None,
        "learning_rate": rate,
        "network_evaluations": run.ledger.network_evaluations,
        "seconds": round(seconds, 6),
        "pairs_per_second": round(settings.global_batch_pairs / seconds, 3),
    }


def accumulate_gradients(run: Run, step: int) -> MetricSums:
    """Forward and backward over this process's share of one global batch.

    The loss is summed over pairs and divided once by the size of the global batch, so any cut into micro batches gives
    the same gradient; processes average theirs, in the backward of the last micro batch only.
    """
    accelerator, sums = run.accelerator, run.metric_sums()
    beta, price = run.watch.beta, run.watch.price(run.recipe.objective.auto)
    scale = accelerator.num_processes / run.settings.global_batch_pairs
    for micro in run.batches.micro_batches(step):
        with nullcontext() if micro.is_last else accelerator.no_sync(run.policy):
            outcome = run.step(micro.pairs, beta=beta, price=price, rows=run.rows_of(micro))
            weighted = outcome.loss * micro.weight
            accelerator.backward(weighted.sum() * scale)
        sums.add(outcome, weighted)
    return sums


def optimizer_step(run: Run, step: int) -> None:
    """Step and forget the gradients; in fp16 the scaler leaves out a step whose gradients overflowed."""
    scaler = run.accelerator.scaler
    if run.settings.trained_dtype == "bf16":
        rounded_step(run.optimizer, run.parameters, run.optimized, run.recipe.seed, step)
    elif scaler is None:
        run.optimizer.step()
    else:
        scaler.step(run.optimizer)
        scaler.update()
    run.forget_gradients()
