"""`ddspo compare`: one set of pairs, every method's own best strength, every seed, one page.

    OUTPUT/settings.json  recipe.yaml  matrix.yaml  environment.json  degraded.jsonl  pairs/
           reference_rows/KEY/  target_models/KEY/  what cells share (`shared.py`)
           training/METHOD-VALUE-seedN/           as any training run
           validation/MODEL/  heldout/MODEL/      pictures and scores of one model; a folder per entry of `heldout`
           chosen.json  comparison.json  comparison.md  comparison.html

1. Pairs are made once. 2. Every method tries the values of its sweep with the first seed and is judged on validation
prompts. 3. The best value, and auto where asked for, is trained with every seed and judged on the base recipe's own
evaluation prompts. Nothing is remembered but files: the same command resumes, and a matrix may grow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..alignment import PAIRS, degrade_stage, open_run, pairs_stage, single_process
from ..errors import UserError
from ..evaluation.evaluate import check_evaluation
from ..evaluation.prompts import evaluation_prompts
from ..files import write_json, write_text
from ..overrides import merged
from ..recipe import Recipe
from .cells import Cell, Value, all_cells, final_cells, sweep_cells
from .jobs import Map, Result, Task, work_on, workers
from .matrix import Matrix, overlaid
from .shared import make_models, make_rows, models_tasks, rows_tasks, with_shared

VALIDATION, REFERENCE = "validation", "reference"
CHOSEN = "chosen.json"


@dataclass
class Comparison:
    """A matrix with its base, and what is known so far.

    Attributes:
        matrix, base: from `load_matrix`.
        pairs: the folder that all cells train on.
        cells: everything that may ever be trained, by name, with what cells share filled in.
        sweep: cells that were judged on validation prompts, with their results.
        final: name in the matrix's `heldout` -> cells that were judged so, with theirs.
        references: 'validation' or such a name -> the base itself.
        best: method -> the value that validation chose.
    """

    matrix: Matrix
    base: Recipe
    pairs: Path
    cells: dict[str, Cell] = field(default_factory=dict)
    sweep: list[tuple[Cell, Result]] = field(default_factory=list)
    final: dict[str, list[tuple[Cell, Result]]] = field(default_factory=dict)
    references: dict[str, Result] = field(default_factory=dict)
    best: dict[str, Value] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        """The comparison's folder."""
        return self.base.output

    def judged_by(self, where: str, method: str | None) -> Recipe:
        """The recipe that a method's pictures are drawn and scored with; None: the reference."""
        own = self.matrix.methods[method].evaluation if method is not None else {}
        changes = self.matrix.validation if where == VALIDATION else self.matrix.heldout[where]
        plain = {"negative_prompt_baseline": False}  # which is a method of its own here
        return overlaid(
            self.base, {"evaluation": merged(merged(plain, changes), own)}, f"{where} of {method or REFERENCE}"
        )


def compare(matrix: Matrix, base: Recipe, *, processes: int = 1, say: Callable[[str], None] = print) -> Path:
    """Run what is missing of a comparison and write its page.

    Args:
        matrix, base: from `load_matrix`.
        processes: cells worked on side by side, each in a process of one thread; 1: one after another, here.
        say: gets one line per finished cell.

    Returns:
        the path of comparison.html.

    Raises:
        UserError: bad input, in one line; nothing already made is lost.
    """
    from ..report.comparison import build_comparison_page
    from .markdown import markdown
    from .summarize import summarize

    single_process("compare")
    comparison = open_comparison(matrix, base)
    make_pairs(comparison, say)
    with workers(processes) as run:
        for _ in run(make_models, models_tasks(all_cells(matrix, base), base, comparison.pairs, base.output)):
            pass
        sweep(comparison, run, say)
        finals(comparison, run, say)
    pages = []
    for where in matrix.heldout:
        result, path = summarize(comparison, where), result_path(base.output, matrix, where)
        write_json(path, result)
        write_text(path.with_suffix(".md"), markdown(result))
        pages.append(build_comparison_page(path))
    return pages[0]


def result_path(output: Path, matrix: Matrix, where: str) -> Path:
    """comparison.json, and comparison-NAME.json for further ways to judge."""
    first = next(iter(matrix.heldout))
    return output / ("comparison.json" if where == first else f"comparison-{where}.json")


def check_comparison(matrix: Matrix, base: Recipe) -> Comparison:
    """Check every cell and way of judging, before anything runs or is written.

    Raises:
        UserError: a method is not valid at one of its values, the given pairs do not serve it, validation and final
            prompts overlap, or final prompts or scorers cannot be had.
    """
    comparison = Comparison(matrix, base, matrix.pairs or base.output / PAIRS)
    comparison.cells = {cell.name: cell for cell in with_shared(all_cells(matrix, base), base.output, base.seed)}
    for method in matrix.methods:
        for where in matrix.heldout:
            comparison.judged_by(where, method)
    check_prompts(comparison)
    for where in matrix.heldout:
        check_evaluation(comparison.judged_by(where, None))
    if matrix.pairs is not None:
        check_given_pairs(comparison)
    return comparison


def check_given_pairs(comparison: Comparison) -> None:
    """Pairs that nobody will make here must hold what every cell reads.

    Raises:
        UserError: there are none, or a cell needs degraded prompts or states that they do not hold; names the method.
    """
    from ..pairs.store import PairStore
    from ..training.setup import check_states, check_texts

    if not comparison.pairs.is_dir():
        raise UserError(f"{comparison.pairs} does not exist; make it with `ddspo pairs`, or leave `pairs` out")
    store = PairStore(comparison.pairs, min_contrast=comparison.base.pairs.min_contrast)
    for cell in comparison.cells.values():
        try:
            check_texts(cell.recipe, store)
            check_states(cell.recipe, store)
        except UserError as error:
            raise UserError(f"methods.{cell.method}: {error}") from error


def open_comparison(matrix: Matrix, base: Recipe) -> Comparison:
    """Check everything, then claim the folder.

    Raises:
        UserError: as `check_comparison`, or the folder holds something else.
    """
    comparison = check_comparison(matrix, base)
    open_run(base)
    write_text(base.output / "matrix.yaml", yaml.safe_dump(matrix.model_dump(mode="json"), sort_keys=False, width=120))
    return comparison


def check_prompts(comparison: Comparison) -> None:
    """Prompts that choose must not be the ones that judge.

    Raises:
        UserError: some are both.
    """
    if "prompts" not in comparison.matrix.validation:
        return

    def ids(where: str) -> set[str]:
        return {record.id for record in evaluation_prompts(comparison.judged_by(where, None))}

    chosen_on = ids(VALIDATION)
    for where in comparison.matrix.heldout:
        if both := len(chosen_on & ids(where)):
            raise UserError(
                f"validation.prompts: {both} of {len(chosen_on)} prompts are in {where} as well; choose on others "
                "than those that judge"
            )


def make_pairs(comparison: Comparison, say: Callable[[str], None]) -> None:
    """Degraded prompts and pairs, once, with the base recipe's own seed."""
    if comparison.matrix.pairs is not None:
        return
    began = time.monotonic()
    degrade_stage(comparison.base, comparison.output)
    say(f"pairs{'':<31}{time.monotonic() - began:8.1f} s  {pairs_stage(comparison.base, comparison.output)}")


def sweep(comparison: Comparison, run: Map[Any, Any], say: Callable[[str], None]) -> None:
    """Every value of every sweep on validation prompts; the best of each by mean score."""
    cells = sweep_cells(comparison.matrix, comparison.base)
    if not cells:
        return
    reference, results = _judged(comparison, VALIDATION, cells, run, say)
    comparison.references[VALIDATION], comparison.sweep = reference, results
    for method in dict.fromkeys(cell.method for cell in cells):
        tried = [(cell, result) for cell, result in results if cell.method == method and isinstance(cell.value, float)]
        if not tried:
            continue
        sign = 1 if reference.judged.higher_is_better else -1
        best = max(tried, key=lambda one: sign * float(one[1].judged.scores.mean()))
        comparison.best[method] = best[0].value
    write_json(comparison.output / CHOSEN, comparison.best)


def finals(comparison: Comparison, run: Map[Any, Any], say: Callable[[str], None]) -> None:
    """Every method at its best value and at auto, every seed, on held-out prompts."""
    cells = final_cells(comparison.matrix, comparison.base, comparison.best)
    for where in comparison.matrix.heldout:
        comparison.references[where], comparison.final[where] = _judged(comparison, where, cells, run, say)


def _judged(
    comparison: Comparison, where: str, cells: Iterable[Cell], run: Map[Any, Any], say: Callable[[str], None]
) -> tuple[Result, list[tuple[Cell, Result]]]:
    """(the reference, every cell with what was found about it)."""
    cells = [comparison.cells.get(cell.name, cell) for cell in cells]
    for _ in run(make_rows, rows_tasks(cells, comparison.pairs)):
        pass
    tasks = [
        Task(
            cell, comparison.judged_by(where, cell.method if cell else None), comparison.pairs, comparison.output, where
        )
        for cell in [None, *cells]
    ]
    results, began = [], time.monotonic()
    for number, (task, result) in enumerate(zip(tasks, run(work_on, tasks), strict=True), 1):
        results.append(result)
        score = float(result.judged.scores.mean())
        say(f"[{where} {number}/{len(tasks)}] {task.name:<24} {time.monotonic() - began:8.1f} s  score {score:.4f}")
    return results[0], list(zip(cells, results[1:], strict=True))
