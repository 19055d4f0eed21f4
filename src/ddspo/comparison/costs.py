"""What a comparison cost, and what its sweeps would have cost as separate runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import read_json
from ..ledger import FILE_NAME as COST_FILE
from ..method_facts import frozen_rows
from ..plan import training_cost
from .cells import Cell
from .shared import MODELS, ROWS

if TYPE_CHECKING:
    from .jobs import Result
    from .run import Comparison

Cost = dict[str, float]


def _sum(costs: list[Cost]) -> Cost:
    return {unit: round(sum(cost[unit] for cost in costs), 3) for unit in ("seconds", "network_evaluations")}


def _pairs_cost(comparison: Comparison) -> Cost:
    path = comparison.pairs / COST_FILE
    return _sum([read_json(path)] if path.is_file() else [])


def _shared_cost(folder: Path, pattern: str) -> Cost:
    return _sum([read_json(path) for path in sorted(folder.glob(pattern))])


def costs_of(comparison: Comparison) -> dict[str, Cost]:
    """{stage: {"seconds", "network_evaluations"}} from the ledgers; a training that is used twice counts once.

    Seconds are added up over cells, also where they ran side by side.
    """
    judged = {"validation": comparison.sweep, **comparison.final}
    trained = {cell.name: result.cost for results in judged.values() for cell, result in results}
    stages = {
        "pairs": _pairs_cost(comparison),
        "target models": _shared_cost(comparison.output / MODELS, f"*/*/{COST_FILE}"),
        "reference rows": _shared_cost(comparison.output / ROWS, f"*/{COST_FILE}"),
        "training": _sum(list(trained.values())),
    }
    for where, reference in comparison.references.items():
        stages[where] = _sum([result.judged.cost for result in [reference, *(result for _, result in judged[where])]])
    return {**stages, "total": _sum(list(stages.values()))}


def alone(cell: Cell) -> int:
    """F of training this cell as a run of its own, without rows that others share."""
    training = cell.recipe.training
    return training_cost(cell.recipe) * training.max_steps * training.global_batch_pairs


def spent_alone(cell: Cell, result: Result) -> float:
    """F that this run would have cost alone: what its ledger says, and the rows that it read instead of computing."""
    read = len(result.metrics) * cell.recipe.training.global_batch_pairs if cell.recipe.training.reference_rows else 0
    return result.cost["network_evaluations"] + read * frozen_rows(cell.recipe)


def sharing(comparison: Comparison) -> dict[str, Any] | None:
    """The sweeps' network evaluations against the same cells as separate runs; None without a sweep.

    Three counts, because it matters what 'separate' means:

    - training: policies and reference rows alone;
    - training and validation: a separate run also draws the reference's pictures;
    - everything: a separate run also makes its pairs.
    """
    if not comparison.sweep:
        return None
    count = len(comparison.sweep)
    drawn = [result.judged.cost["network_evaluations"] for _, result in comparison.sweep]
    reference = comparison.references["validation"].judged.cost["network_evaluations"]
    pairs = _pairs_cost(comparison)["network_evaluations"]
    trained = [result.cost["network_evaluations"] for _, result in comparison.sweep]
    shared = sum(trained) + sum(_sweep_rows(comparison).values())
    separate = float(sum(spent_alone(cell, result) for cell, result in comparison.sweep))

    def ratio(ours: float, apart: float) -> dict[str, float]:
        return {"shared": ours, "separate": apart, "ratio": ours / apart}

    return {
        "runs": count,
        "training": ratio(shared, separate),
        "training and validation": ratio(shared + sum(drawn) + reference, separate + sum(drawn) + count * reference),
        "everything": ratio(
            shared + sum(drawn) + reference + pairs, separate + sum(drawn) + count * (reference + pairs)
        ),
    }


def _sweep_rows(comparison: Comparison) -> dict[str, float]:
    """Folder -> F of the reference rows that sweep cells read."""
    folders = {path for cell, _ in comparison.sweep if (path := cell.recipe.training.reference_rows)}
    return {str(path): read_json(path / COST_FILE)["network_evaluations"] for path in sorted(folders)}
