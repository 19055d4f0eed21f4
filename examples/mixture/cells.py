"""One training and what its policy measures, as a cell; many cells side by side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ddspo.comparison.jobs import workers
from ddspo.progress import progress

from .training import METHODS, train
from .world import MODES, Measures, Predict, measure, sample

CHOOSING, JUDGING = 4, 5
"""seeds of the samples that choose a beta, and of those that judge it"""
DOTS = 480

Dots = list[list[float]]


@dataclass(frozen=True)
class Cell:
    """A method of `METHODS` at a beta (None: it has none; 'auto') with a training seed."""

    method: str
    beta: float | str | None
    seed: int = 0


@dataclass(frozen=True)
class Found:
    """What a cell gave, in plain numbers, which cross from process to process.

    Attributes:
        beta: in use; None where the objective has none.
        drift: over the contrast at the end; None without reference rows.
        choosing, judging: measures on samples of the two seeds.
        dots: the first samples that judge, for the figure.
    """

    beta: float | None
    drift: float | None
    choosing: Measures
    judging: Measures
    dots: Dots


def dots(predict: Predict) -> Dots:
    """Samples for the figure; the conditions go round, `arange(DOTS) % MODES`."""
    x_t = torch.randn(DOTS, 2, generator=torch.Generator().manual_seed(JUDGING))
    return sample(predict, torch.arange(DOTS) % MODES, x_t).tolist()


def carry_out(cell: Cell) -> Found:
    """Train one policy and measure it."""
    trained = train(METHODS[cell.method], cell.beta, cell.seed)
    choosing, judging = (measure(trained.policy, seed=seed) for seed in (CHOOSING, JUDGING))
    return Found(trained.beta, trained.drift, choosing, judging, dots(trained.policy))


def carry_out_all(cells: Iterable[Cell], processes: int) -> dict[Cell, Found]:
    """Every cell once, on so many processes of one thread each."""
    missing = list(dict.fromkeys(cells))
    found: dict[Cell, Found] = {}
    with workers(processes) as spread, progress(len(missing), "trainings", "trainings") as bar:
        for cell, one in zip(missing, spread(carry_out, missing), strict=True):
            found[cell] = one
            bar.update()
    return found
