"""From judged cells to comparison.json: gains with intervals over seeds and prompts, cost, drift, win rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from ..evaluation.statistics import Array, bootstrap_mean, compare_over_seeds
from ..plan import training_cost
from ..rng import seed_for
from .cells import AUTO, FIXED, Cell, Value, variant
from .costs import costs_of, sharing, spent_alone
from .jobs import Result
from .judge import ahead
from .run import REFERENCE, VALIDATION, Comparison

FORMAT = 1


@dataclass(frozen=True)
class Row:
    """One line of the table: a method at one value, all its seeds."""

    name: str
    method: str
    kind: str
    value: Value
    cells: Sequence[tuple[Cell, Result]]

    @property
    def scores(self) -> Array:
        """[seeds, prompts, pictures]."""
        return np.stack([result.judged.scores for _, result in self.cells])


def rows_of(comparison: Comparison, where: str) -> list[Row]:
    """Methods in the order of the matrix, the chosen value before auto."""
    groups: dict[tuple[str, Value], list[tuple[Cell, Result]]] = {}
    for cell, result in comparison.final[where]:
        groups.setdefault((cell.method, cell.value), []).append((cell, result))
    rows = []
    for (method, value), cells in groups.items():
        kind = AUTO if value == AUTO else "untrained" if not cells[0][0].trained else FIXED
        if method in comparison.best and value != AUTO:
            kind = "best"
        # The value is part of the name only where one method has two rows.
        name = f"{method}, auto" if value == AUTO and len([key for key in groups if key[0] == method]) > 1 else method
        rows.append(Row(name, method, kind, value, cells))
    return rows


def summarize(comparison: Comparison, where: str) -> dict[str, Any]:
    """The content of comparison.json, for one name in the matrix's `heldout`."""
    rows, reference = rows_of(comparison, where), comparison.references[where]
    evaluation, matrix = comparison.judged_by(where, None).evaluation, comparison.matrix
    options = _options(comparison)
    versus = next((row for row in rows if row.method == matrix.versus), None)  # its best value comes before auto
    values = {float(score) for row in [reference.judged.scores, *(row.scores for row in rows)] for score in row.flat}
    return {
        "format": FORMAT,
        "name": matrix.name,
        "judged": where,
        "base": str(comparison.base.model.base),
        "seeds": list(matrix.seeds),
        "budget": matrix.budget,
        "versus": matrix.versus,
        "scorer": evaluation.scorers[0],
        "percent": values <= {0.0, 1.0},
        "higher_is_better": reference.judged.higher_is_better,
        "confidence": evaluation.confidence,
        "prompts": len(reference.judged.scores),
        "prompts_from": evaluation.prompts,
        "images_per_prompt": evaluation.images_per_prompt,
        "guidance_scale": evaluation.sampling.guidance_scale,
        "categories": list(reference.judged.categories),
        "reference": {
            "score": bootstrap_mean(reference.judged.scores, **options).as_dict(),
            "frechet": reference.judged.frechet,
            "categories": _by_category(reference.judged.scores[None], reference),
        },
        "rows": [_row(row, reference, versus, options) for row in rows],
        "win_rate": _win_rates(rows, reference, options),
        "sweeps": _sweeps(comparison, options),
        "costs": costs_of(comparison),
        "sharing": sharing(comparison),
        "notes": [_note(comparison)],
    }


def _note(comparison: Comparison) -> str:
    """What a reader must know of how values were chosen."""
    if not comparison.sweep:
        return "No sweep: every method ran at the one value that the matrix gives it."
    seeds = comparison.matrix.seeds
    return (
        f"Values were chosen by runs with seed {seeds[0]} on validation prompts, and those runs are among the "
        f"{len(seeds)} judged here. No prompt is used twice, but a run that was chosen may owe it to a lucky seed, "
        "which favors swept values a little over auto and over methods without a sweep."
    )


def _options(comparison: Comparison) -> dict[str, Any]:
    evaluation = comparison.base.evaluation
    return {
        "samples": evaluation.bootstrap_samples,
        "confidence": evaluation.confidence,
        "seed": seed_for(comparison.base.seed, "compare", "bootstrap"),
    }


def _row(row: Row, reference: Result, versus: Row | None, options: dict[str, Any]) -> dict[str, Any]:
    cell = row.cells[0][0]
    frechets = [result.judged.frechet for _, result in row.cells if result.judged.frechet is not None]
    against = None
    if versus is not None and row is not versus and len(versus.cells) == len(row.cells):
        against = compare_over_seeds(row.scores - versus.scores, **options).as_dict()
    trained = cell.trained
    return {
        "name": row.name,
        "method": row.method,
        "kind": row.kind,
        "value": row.value if isinstance(row.value, float) else None,
        "betas": [beta for _, result in row.cells if (beta := last(result, "beta")) is not None],
        "target": cell.recipe.target.source if trained else None,
        "objective": cell.recipe.objective.name if trained else None,
        "seeds": len(row.cells),
        "steps": cell.recipe.training.max_steps if trained else 0,
        "evaluations_per_pair": training_cost(cell.recipe) if trained else 0,
        "score": float(row.scores.mean()),
        "gain": compare_over_seeds(row.scores - reference.judged.scores, **options).as_dict(),
        "against_versus": against,
        "frechet": {"mean": fmean(frechets), "low": min(frechets), "high": max(frechets)} if frechets else None,
        "drift_over_contrast": drift_over_contrast([result for _, result in row.cells]),
        "network_evaluations": fmean(spent_alone(cell, result) for cell, result in row.cells),
        "seconds": fmean(result.cost["seconds"] for _, result in row.cells),
        "categories": _by_category(row.scores, row.cells[0][1]),
    }


def _by_category(scores: Array, result: Result) -> dict[str, float]:
    return {name: float(scores[:, numbers].mean()) for name, numbers in result.judged.categories.items()}


def last(result: Result, key: str) -> float | None:
    """A metric's last value; None where it was not recorded."""
    values = [row[key] for row in result.metrics if row.get(key) is not None]
    return float(values[-1]) if values else None


def late(result: Result, key: str) -> float | None:
    """A metric's mean over the last fifth of training; None where it was not recorded."""
    rows = result.metrics[-max(1, len(result.metrics) // 5) :]
    values = [row[key] for row in rows if row.get(key) is not None]
    return fmean(values) if values else None


def drift_over_contrast(results: Sequence[Result]) -> float | None:
    """The larger side's drift at the end of training, over the contrast; mean over runs, None without either."""
    found = [value for result in results if (value := late(result, "drift_over_contrast")) is not None]
    return fmean(found) if found else None


def _win_rates(rows: Sequence[Row], reference: Result, options: dict[str, Any]) -> dict[str, Any]:
    """How often the row's picture scores better than the column's, of the same prompt and seed; a tie counts ½."""
    scores = {REFERENCE: reference.judged.scores[None], **{row.name: row.scores for row in rows}}
    higher = reference.judged.higher_is_better

    def cell(first: Array, second: Array) -> dict[str, float]:
        if len(first) != len(second):  # the reference and untrained rows have one run, which every seed meets
            first, second = np.broadcast_arrays(first, second)
        found = compare_over_seeds(ahead(first, second, higher) - 0.5, **options)
        return {"mean": found.mean + 0.5, "low": found.low + 0.5, "high": found.high + 0.5}

    names = list(scores)
    return {
        "names": names,
        "rows": [[None if a == b else cell(scores[a], scores[b]) for b in names] for a in names],
    }


def _sweeps(comparison: Comparison, options: dict[str, Any]) -> dict[str, Any]:
    """Method -> its curve on validation prompts, what was chosen, where auto lies."""
    curves: dict[str, Any] = {}
    for cell, result in comparison.sweep:
        reference = comparison.references[VALIDATION]
        knob = comparison.matrix.methods[cell.method].knob
        curve = curves.setdefault(cell.method, {"knob": knob, "best": None, "points": [], "auto": None})
        point = {
            "value": cell.value if isinstance(cell.value, float) else last(result, "beta"),
            "run": variant(cell.method, cell.value),
            "score": bootstrap_mean(result.judged.scores, **options).as_dict(),
            "gain": compare_over_seeds((result.judged.scores - reference.judged.scores)[None], **options).as_dict(),
            "frechet": result.judged.frechet,
            "drift_over_contrast": drift_over_contrast([result]),
        }
        if cell.value == AUTO:
            curve["auto"] = point
        else:
            curve["points"].append(point)
        curve["best"] = comparison.best.get(cell.method)
    return curves
