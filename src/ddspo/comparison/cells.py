"""The trainings of a comparison: one cell for every method, value and seed that it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..overrides import merged
from ..plan import training_cost
from ..recipe import Recipe
from .matrix import Matrix, Method, overlaid

AUTO = "auto"
FIXED = "fixed"
"""the only value of a method without a sweep"""
TRAINING = "training"
Value = float | str
"""of the swept field; `AUTO` or `FIXED` where no number stands"""


@dataclass(frozen=True)
class Cell:
    """One training run, or with `recipe.training` unused the base drawn in another way.

    Attributes:
        method: name in the matrix.
        value: of its swept field.
        seed: training seed.
        recipe: the whole recipe of this run.
        trained: whether there is anything to train.
    """

    method: str
    value: Value
    seed: int
    recipe: Recipe
    trained: bool = True

    @property
    def name(self) -> str:
        """Unique in the comparison, and a name for files: 'ddspo-200-seed0'."""
        return f"{variant(self.method, self.value)}-seed{self.seed}" if self.trained else self.method

    def folder(self, output: Path) -> Path:
        """Of its training run."""
        return output / TRAINING / self.name

    def policy(self, output: Path) -> Path | None:
        """What training leaves; None where the base itself is drawn."""
        return self.folder(output) / "policy" if self.trained else None


def variant(method: str, value: Value) -> str:
    """'ddspo-200', 'ddspo-auto', or the method alone where it has no sweep."""
    return method if value == FIXED else f"{method}-{value if isinstance(value, str) else f'{value:g}'}"


def make_cell(matrix: Matrix, base: Recipe, name: str, value: Value, seed: int) -> Cell:
    """The cell of one method, value and seed.

    Raises:
        UserError: the method's fields do not make a valid recipe; names the method.
    """
    method = matrix.methods[name]
    changes: dict[str, Any] = {
        "seed": seed,
        "training": merged({"preview_every_steps": None, "trackers": ()}, method.training),
        "evaluation": method.evaluation,
    }
    if value == AUTO:
        changes = merged(changes, {"objective": {"beta": AUTO}})
    elif isinstance(value, float) and method.knob is not None:
        changes = merged(changes, _nested(method.knob, value))
    where = f"methods.{name}" + (f" at {value}" if value != FIXED else "")
    whole = {section: fields for section in ("target", "objective") if (fields := getattr(method, section))}
    recipe = overlaid(base, changes, where, whole)
    if matrix.budget == "network_evaluations" and method.train:
        recipe = _at_equal_cost(base, recipe)
    return Cell(name, value, seed, recipe, method.train)


def _nested(field: str, value: float) -> dict[str, Any]:
    """{'a': {'b': value}} for 'a.b'."""
    *sections, last = field.split(".")
    result: dict[str, Any] = {last: value}
    for section in reversed(sections):
        result = {section: result}
    return result


def _at_equal_cost(base: Recipe, recipe: Recipe) -> Recipe:
    """As many steps as cost what the base recipe's training costs."""
    steps = max(1, round(recipe.training.max_steps * training_cost(base) / training_cost(recipe)))
    training = recipe.training.model_copy(update={"max_steps": steps})
    return recipe.model_copy(update={"training": training})


def sweep_cells(matrix: Matrix, base: Recipe) -> list[Cell]:
    """Every value of every sweep, and auto beside it, with the first seed: what is judged on validation prompts.

    A single value leaves nothing to choose, with auto or without.
    """
    cells = []
    for name, method in matrix.methods.items():
        if len(method.values) > 1:
            values: list[Value] = [*method.values, *([AUTO] if method.auto else [])]
            cells += [make_cell(matrix, base, name, value, matrix.seeds[0]) for value in values]
    return cells


def all_cells(matrix: Matrix, base: Recipe) -> list[Cell]:
    """Every cell that may ever be trained: what validation will choose is not known yet."""
    cells = sweep_cells(matrix, base)
    for name, method in matrix.methods.items():
        values: list[Value] = [*method.values, *([AUTO] if method.auto else [])] or [FIXED]
        cells += [make_cell(matrix, base, name, value, seed) for value in values for seed in matrix.seeds]
    return list({cell.name: cell for cell in cells if cell.trained}.values())


def final_cells(matrix: Matrix, base: Recipe, best: Mapping[str, Value]) -> list[Cell]:
    """Every method at its best value and at auto, every seed: what is judged on held-out prompts.

    Args:
        best: method -> value, for those that have a choice.
    """
    cells = []
    for name, method in matrix.methods.items():
        if not method.train:
            cells.append(make_cell(matrix, base, name, FIXED, base.seed))
            continue
        cells += [
            make_cell(matrix, base, name, value, seed)
            for value in values_of(method, best.get(name))
            for seed in matrix.seeds
        ]
    return cells


def values_of(method: Method, best: Value | None) -> list[Value]:
    """The values that a method is finally trained at: the best of its sweep (or its only one), then auto."""
    first: Value = best if best is not None else method.values[0] if method.values else FIXED
    only_auto = method.auto and not method.values
    return [*([] if only_auto else [first]), *([AUTO] if method.auto else [])]
