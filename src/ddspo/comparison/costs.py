"""What a comparison cost, and what its sweeps would have cost as separate runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..files import read_json
from ..ledger import FILE_NAME as COST_FILE
from ..plan import training_cost
from .cells import ROWS, Cell
from .jobs import Result

if TYPE_CHECKING:
    from .run import Comparison

Cost = dict[str, float]


def _sum(costs: list[Cost]) -> Cost:
    return {unit: round(sum(cost[unit] for cost in costs), 3) for unit in ("seconds", "network_evaluations")}


def _pairs_cost(comparison: Comparison) -> Cost:
    path = comparison.pairs / COST_FILE
    return _sum([read_json(path)] if path.is_file() else [])


def _rows_cost(comparison: Comparison) -> Cost:
    return _sum([read_json(path) for path in sorted((comparison.output / ROWS).glob(f"*/{COST_FILE}"))])


def costs_of(comparison: Comparison) -> dict[str, Cost]:
    """{stage: {"seconds", "network_evaluations"}} from the ledgers; a training that is used twice counts once.

    Seconds are added up over cells, also where they ran side by side.
    """
    cells = {cell.name: result for cell, result in [*comparison.sweep, *comparison.final]}
    where = {
        "validation": [result for _, result in comparison.sweep] + _reference(comparison, "validation"),
        "heldout": [result for _, result in comparison.final] + _reference(comparison, "heldout"),
    }
    stages = {
        "pairs": _pairs_cost(comparison),
        "reference rows": _rows_cost(comparison),
        "training": _sum([result.cost for result in cells.values()]),
        **{name: _sum([result.judged.cost for result in results]) for name, results in where.items()},
    }
    return {**stages, "total": _sum(list(stages.values()))}


def _reference(comparison: Comparison, where: str) -> list[Result]:
    return [comparison.references[where]] if where in comparison.references else []


def alone(cell: Cell) -> int:
    """F of training this cell as a run of its own, without rows that others share."""
    training = cell.recipe.training
    return training_cost(cell.recipe) * training.max_steps * training.global_batch_pairs


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
    separate = float(sum(alone(cell) for cell, _ in comparison.sweep))

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
    folders = {path for cell, _ in comparison.sweep if (path := getattr(cell.recipe.training, "reference_rows", None))}
    return {str(path): read_json(path / COST_FILE)["network_evaluations"] for path in sorted(folders)}
