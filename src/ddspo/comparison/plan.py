"""What a comparison will run and cost, before anything runs."""

from __future__ import annotations

from ..base_facts import read_base_facts
from ..evaluation.prompts import evaluation_prompts
from ..memory import kept_bytes, trained_shapes
from ..plan import PICTURE_COMPRESSION, make_plan, picture_cost
from ..recipe import Recipe
from .cells import AUTO, Cell, Value, final_cells, sweep_cells
from .costs import alone
from .matrix import Matrix
from .run import VALIDATION, Comparison, check_comparison


def plan_text(matrix: Matrix, base: Recipe) -> str:
    """What --dry-run prints: cells, network evaluations and disk. Loads no weights, writes nothing.

    Raises:
        UserError: what the comparison itself would refuse.
    """
    comparison = check_comparison(matrix, base)
    swept = {cell.name: cell for cell in sweep_cells(matrix, base)}
    any_value: dict[str, Value] = {name: method.values[0] for name, method in matrix.methods.items() if method.values}
    finals = {cell.name: cell for cell in final_cells(matrix, base, any_value)}
    lines = [f"# plan for {base.output}", f"{'method':<24}{'values':<34}{'seeds':>6}{'steps':>7}{'F per run':>12}"]
    for name, method in matrix.methods.items():
        cell = next(cell for cell in finals.values() if cell.method == name)
        values = ", ".join([f"{value:g}" for value in method.values] + ([AUTO] if method.auto else [])) or "-"
        steps, cost = (cell.recipe.training.max_steps, alone(cell)) if cell.trained else (0, 0)
        lines.append(f"{name:<24}{values:<34}{len(matrix.seeds):>6}{steps:>7}{cost:>12,}")
    trainings = {name: cell for name, cell in (swept | finals).items() if cell.trained}
    pairs = 0 if matrix.pairs else make_plan(base).only("pairs").network_evaluations or 0
    judged = {VALIDATION: swept, **dict.fromkeys(matrix.heldout, finals)}
    pictures = {where: _pictures(comparison, where, cells) for where, cells in judged.items()}
    shared = "each as if alone; shared reference rows make it less"
    rows = [
        ("pairs", pairs, f"taken from {matrix.pairs}" if matrix.pairs else "made once"),
        ("training", sum(map(alone, trainings.values())), f"{len(trainings)} runs, {shared}"),
    ]
    for where, cells in judged.items():
        each, cost = pictures[where]
        rows.append((where, cost, f"{len(cells)} policies and the base, {each} pictures each" if cells else "no sweep"))
    drawn = sum(each * (1 + len(judged[where])) for where, (each, _) in pictures.items())
    disk = f"disk about {_disk(base, list(trainings.values()), drawn) / 1e6:,.0f} MB, and reference rows"
    rows.append(("total", sum(cost for _, cost, _ in rows), disk))
    lines += ["", *(f"{stage:<12}{cost:>16,} F  {note}" for stage, cost, note in rows)]
    return "\n".join(lines)


def _pictures(comparison: Comparison, where: str, cells: dict[str, Cell]) -> tuple[int, int]:
    """(pictures of one model, F of all models)."""
    if not cells:
        return 0, 0
    judge, facts = comparison.judged_by(where, None), read_base_facts(comparison.base.model)
    evaluation = judge.evaluation
    each = len(evaluation_prompts(judge)) * evaluation.images_per_prompt
    own = [comparison.judged_by(where, cell.method).evaluation.sampling for cell in cells.values()]
    return each, sum(each * picture_cost(sampling, facts) for sampling in [evaluation.sampling, *own])


def _disk(base: Recipe, trainings: list[Cell], pictures: int) -> float:
    """Bytes of policies, checkpoints and pictures; pairs and rows tell their own size before they are made."""
    facts = read_base_facts(base.model)
    if facts is None:
        return 0.0
    height, width = facts.picture_px(base.model)
    kept = sum(kept_bytes(cell.recipe, trained_shapes(cell.recipe.training, facts)) for cell in trainings)
    return pictures * height * width * 3 * PICTURE_COMPRESSION + kept
