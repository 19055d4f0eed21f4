"""Running out of device memory: the same optimizer step again, in smaller micro batches."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from ..method_facts import OBJECTIVES
from ..progress import announce
from .metrics import MetricSums

if TYPE_CHECKING:
    from .run import Run


def fit_in_memory(run: Run, accumulate: Callable[[], MetricSums]) -> MetricSums:
    """Call `accumulate`; whenever memory gives out, forget the gradients, halve the micro batch and begin again.

    Parameters and optimizer have not moved by then, and data, timesteps and noise follow from (seed, step, position).
    So the step is the one it would have been, up to the order in which floats are summed. The smaller size stays for
    the rest of the run, is told once in a line, and is recorded in metrics.jsonl and in checkpoints.

    Args:
        run: its batches are cut smaller.
        accumulate: forward and backward over the whole global batch.

    Raises:
        torch.OutOfMemoryError: one pair does not fit; or there are several processes, and the others would wait for
            gradients that this one has dropped; or the size of the micro batch is part of the objective (KTO).
    """
    while True:
        try:
            return accumulate()
        except torch.OutOfMemoryError:
            bound = OBJECTIVES[run.recipe.objective.name].across_pairs
            if bound or run.batches.micro_batch_pairs == 1 or run.accelerator.num_processes > 1:
                raise
        # After the handler, whose traceback keeps every activation of the failed attempt alive.
        run.forget_gradients()
        gc.collect()
        if run.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
        before = run.batches.micro_batch_pairs
        run.batches.micro_batch_pairs = before // 2
        announce(
            f"train: out of memory with {before} pairs per network call; going on with {before // 2} "
            "(training.micro_batch_pairs)"
        )
