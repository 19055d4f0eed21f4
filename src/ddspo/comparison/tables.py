"""A comparison in words: the Markdown table of its result, and what it will do before it does it."""

from __future__ import annotations

from typing import Any

from ..base_facts import read_base_facts
from ..plan import make_plan, picture_cost, trained_parameters
from ..prompts.sources import read_prompts
from ..recipe import Recipe
from .cells import AUTO, Cell, final_cells, sweep_cells
from .costs import alone
from .matrix import Matrix
from .run import HELDOUT, VALIDATION, Comparison


def markdown(result: dict[str, Any]) -> str:
    """The content of table.md: the sweeps, then a row per method."""
    scale, unit = (100, " %") if result["percent"] else (1, "")
    digits = 1 if result["percent"] else 4

    def change(interval: dict[str, float] | None) -> str:
        if interval is None:
            return ""
        mean, low, high = (f"{scale * interval[end]:+.{digits}f}" for end in ("mean", "low", "high"))
        return f"{mean} [{low}, {high}]"

    def plain(value: float | None, places: int = 2) -> str:
        return "" if value is None else f"{value:.{places}f}"

    lines = []
    if result["sweeps"]:
        lines += ["| method | knob | value | minus base (validation) | Fréchet | drift / contrast |", "|" + "---|" * 6]
        for name, curve in result["sweeps"].items():
            knob = str(curve["knob"]).rpartition(".")[2]
            for point in [*curve["points"], *([curve["auto"]] if curve["auto"] else [])]:
                value = "" if point["value"] is None else f"{point['value']:.4g}"
                value = f"auto ({value})" if point is curve["auto"] else value
                value = f"**{value}**" if point["value"] == curve["best"] else value
                row = [name, knob, value, change(point["gain"]), plain(point["frechet"])]
                lines.append("| " + " | ".join([*row, plain(point["drift_over_contrast"])]) + " |")
        lines.append("")
    versus = [f"minus {result['versus']}"] if result["versus"] else []
    header = [
        "method",
        "value",
        "score",
        "minus base",
        *versus,
        "Fréchet",
        "drift / contrast",
        "F per run",
        "s per run",
    ]
    lines += ["| " + " | ".join([*header, *result["categories"]]) + " |"]
    lines += ["|" + "---|" * (len(header) + len(result["categories"]))]
    base = result["reference"]
    cells = ["base", "", f"{scale * base['score']['mean']:.{digits}f}{unit}", "", *([""] if versus else [])]
    cells += [plain(base["frechet"]), "", "", "", *(f"{scale * v:.{digits}f}" for v in base["categories"].values())]
    lines.append("| " + " | ".join(cells) + " |")
    for row in result["rows"]:
        betas = row["betas"]
        value = f"{sum(betas) / len(betas):.4g}" if betas else "" if row["value"] is None else f"{row['value']:g}"
        frechet = row["frechet"]
        cells = [
            row["name"],
            value,
            f"{scale * row['score']:.{digits}f}{unit}",
            change(row["gain"]),
            *([change(row["against_versus"])] if versus else []),
            f"{frechet['mean']:.2f} ({frechet['low']:.2f} to {frechet['high']:.2f})" if frechet else "",
            plain(row["drift_over_contrast"]),
            f"{row['network_evaluations']:.0f}",
            f"{row['seconds']:.0f}",
            *(f"{scale * value:.{digits}f}" for value in row["categories"].values()),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plan_text(matrix: Matrix, base: Recipe) -> str:
    """What --dry-run prints: cells, network evaluations and disk. Loads no weights, writes nothing.

    Raises:
        UserError: a method does not make a valid recipe.
    """
    comparison = Comparison(matrix, base, base.output)
    swept = {cell.name: cell for cell in sweep_cells(matrix, base)}
    finals = {cell.name: cell for cell in final_cells(matrix, base, {name: m.values[0] for name, m in _chosen(matrix)})}
    lines = [f"# plan for {base.output}", f"{'method':<24}{'values':<34}{'seeds':>6}{'steps':>7}{'F per run':>12}"]
    for name, method in matrix.methods.items():
        cell = next(cell for cell in finals.values() if cell.method == name)
        values = ", ".join([f"{value:g}" for value in method.values] + ([AUTO] if method.auto else [])) or "-"
        steps, cost = (cell.recipe.training.max_steps, alone(cell)) if cell.trained else (0, 0)
        lines.append(f"{name:<24}{values:<34}{len(matrix.seeds):>6}{steps:>7}{cost:>12,}")
    trainings = {name: cell for name, cell in (swept | finals).items() if cell.trained}
    training = sum(alone(cell) for cell in trainings.values())
    pairs = 0 if matrix.pairs else make_plan(base).only("pairs").network_evaluations or 0
    pictures = {where: _pictures(comparison, where, cells) for where, cells in ((VALIDATION, swept), (HELDOUT, finals))}
    rows = [
        ("pairs", pairs, "made once" if not matrix.pairs else f"taken from {matrix.pairs}"),
        ("training", training, f"{len(trainings)} runs, each as if alone; shared reference rows make it less"),
        ("validation", pictures[VALIDATION][1], f"{len(swept)} policies and the base, {pictures[VALIDATION][0]} each"),
        ("heldout", pictures[HELDOUT][1], f"{len(finals)} policies and the base, {pictures[HELDOUT][0]} each"),
    ]
    rows.append(
        ("total", sum(cost for _, cost, _ in rows), f"disk about {_disk(base, trainings, pictures) / 1e6:,.0f} MB")
    )
    lines += ["", *(f"{stage:<12}{cost:>16,} F  {note}" for stage, cost, note in rows)]
    return "\n".join(lines)


def _chosen(matrix: Matrix) -> list[tuple[str, Any]]:
    """Methods whose best value is chosen; any value serves to count."""
    return [(name, method) for name, method in matrix.methods.items() if method.values]


def _pictures(comparison: Comparison, where: str, cells: dict[str, Cell]) -> tuple[str, int, int]:
    """(pictures of a model in words, F of all models, pictures of all models)."""
    if not cells:
        return "0 pictures", 0, 0
    evaluation = comparison.judged_by(where, None).evaluation
    prompts = len(read_prompts(evaluation.prompts, evaluation.column, evaluation.limit, comparison.base.seed))
    each, facts = prompts * evaluation.images_per_prompt, read_base_facts(comparison.base.model)
    own = [comparison.judged_by(where, cell.method).evaluation.sampling for cell in cells.values()]
    cost = sum(each * picture_cost(sampling, facts) for sampling in [evaluation.sampling, *own])
    return f"{each} pictures", cost, each * (1 + len(cells))


def _disk(base: Recipe, trainings: dict[str, Cell], pictures: dict[str, tuple[str, int, int]]) -> float:
    """Bytes of policies, checkpoints and pictures; pairs and rows tell their own size before they are made."""
    facts = read_base_facts(base.model)
    if facts is None:
        return 0.0
    height, width = facts.picture_px(base.model)
    drawn = sum(count for _, _, count in pictures.values()) * height * width * 3 * 0.7
    kept = sum(
        4 * trained_parameters(cell.recipe.training, facts) * (1 + 3 * cell.recipe.training.keep_checkpoints)
        for cell in trainings.values()
    )
    return drawn + kept
