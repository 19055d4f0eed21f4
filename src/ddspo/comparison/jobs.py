"""Cells as jobs: train one, judge it; one after another, or side by side in processes of one thread each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..files import read_jsonl
from ..recipe import Recipe
from .cells import Cell
from .judge import Judged, judge

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")
Map = Callable[[Callable[[_Job], _Result], Sequence[_Job]], Iterator[_Result]]
"""like the builtin `map`: results in the order of the jobs"""


@dataclass(frozen=True)
class Task:
    """Train a cell if need be, then judge it.

    Attributes:
        cell: what to train; None: nothing, the reference is judged.
        judged_by: the base recipe with the evaluation that counts and, where the cell draws otherwise, its sampling.
        pairs: what to train on.
        output: the comparison's folder.
        where: 'validation' or 'heldout'.
    """

    cell: Cell | None
    judged_by: Recipe
    pairs: Path
    output: Path
    where: str

    @property
    def name(self) -> str:
        """Of the model that is judged."""
        return "reference" if self.cell is None else self.cell.name


@dataclass(frozen=True)
class Result:
    """What a task found: scores, what training cost (0 where there was none), its metrics.jsonl."""

    judged: Judged
    cost: dict[str, float]
    metrics: list[dict[str, Any]]


def work_on(task: Task) -> Result:
    """Do what is missing of one task; at once where nothing is."""
    cost: dict[str, float] = {"seconds": 0.0, "network_evaluations": 0.0}
    metrics: list[dict[str, Any]] = []
    policy = task.cell.policy(task.output) if task.cell is not None else None
    if task.cell is not None and policy is not None:
        from ..training.loop import train

        cost = train(task.cell.recipe, task.pairs, policy.parent).cost
        metrics = list(read_jsonl(policy.parent / "metrics.jsonl"))
    return Result(judge(task.judged_by, task.name, policy, task.output / task.where / task.name), cost, metrics)


@contextmanager
def workers(count: int) -> Iterator[Map[Any, Any]]:
    """A `map` over `count` processes, each of one thread; of one, the builtin, here and with all threads.

    The number of threads decides the order in which floating-point numbers are added up, so the last digits of a result
    may depend on `count`; killing and running again with the same one does not change them.
    """
    if count == 1:
        yield map
        return
    # The workers' environment: libraries read it when they are imported, which is before `_begin` runs.
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    pool = ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        yield pool.map
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _begin() -> None:
    """One thread, no traceback on Ctrl-C, and an end when the parent is killed.

    A worker that outlived its parent would write into the folders that the next attempt works on.
    """
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
