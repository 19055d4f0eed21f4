"""The command line: thin verbs over the Python API, which load what they need only when they run.

The verbs of the road from prompts to report are here; further ones in `cli_tools.py`, what all share in `cli_base.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .cli_base import (
    DryRunOption,
    ModelOption,
    OutputOption,
    ProbeOption,
    PromptsOption,
    RecipeArgument,
    SetOption,
    app,
    plainly,
    print_plan,
    read_recipe,
)
from .errors import UserError

if TYPE_CHECKING:
    from .recipe import Recipe


def _align(recipe: Recipe, dry_run: bool, probe: bool = False) -> None:
    if dry_run or probe:
        return print_plan(recipe, probe=probe)
    from .alignment import align, headline

    report = align(recipe, say=lambda line: print(line, flush=True))
    print(headline(report.with_name("summary.json")))
    print(f"report: {report.resolve()}")


@app.command(short_help="all of it on the embedded model; minutes on two CPU cores")
@plainly
def demo(overrides: SetOption = None, output: OutputOption = None, dry_run: DryRunOption = False) -> None:
    """Align the embedded model (tinyscenes) and write a report; minutes on two CPU cores."""
    _align(read_recipe("tinyscenes", overrides, output), dry_run)


@app.command(short_help="all of it from one recipe, up to the report")
@plainly
def align(
    recipe: RecipeArgument,
    model: ModelOption = None,
    prompts: PromptsOption = None,
    overrides: SetOption = None,
    output: OutputOption = None,
    dry_run: DryRunOption = False,
    probe: ProbeOption = False,
) -> None:
    """All of it from one recipe: degrade, pairs, targets, train, baselines, evaluate, report."""
    _align(read_recipe(recipe, overrides, output, model, prompts), dry_run, probe)


@app.command(short_help="prompts -> degraded.jsonl")
@plainly
def degrade(
    recipe: RecipeArgument,
    model: ModelOption = None,
    prompts: PromptsOption = None,
    overrides: SetOption = None,
    output: OutputOption = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="only show some prompts with their variants, here and as an HTML page")
    ] = False,
    rows: Annotated[int, typer.Option(metavar="NUMBER", min=1, help="with --preview: how many prompts")] = 20,
    dry_run: DryRunOption = False,
) -> None:
    """prompts -> degraded.jsonl: make degraded variants of every prompt. Under torchrun: shared work."""
    settings = read_recipe(recipe, overrides, output, model, prompts)
    if dry_run:
        return print_plan(settings, "degrade")
    if preview:
        from .prompts.preview import show_preview

        return print(f"preview: {show_preview(settings, rows)}")
    from .alignment import degrade_stage, open_run
    from .processes import this_process

    said = degrade_stage(settings, open_run(settings))
    if this_process().is_main:
        print(said)


@app.command(short_help="degraded.jsonl -> pairs/: both sides of every pair")
@plainly
def pairs(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    output: OutputOption = None,
    degraded: Annotated[
        Path | None, typer.Option(metavar="FILE", help="default: degraded.jsonl in the run folder")
    ] = None,
    dry_run: DryRunOption = False,
) -> None:
    """degraded.jsonl -> pairs/: the reference draws both sides of every pair. Under torchrun: shared work."""
    settings = read_recipe(recipe, overrides, output)
    if dry_run:
        return print_plan(settings, "pairs")
    from .alignment import open_run, pairs_stage

    print(pairs_stage(settings, open_run(settings), degraded))


@app.command(short_help="pairs/ -> targets/: models for data-driven targets")
@plainly
def targets(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    output: OutputOption = None,
    pairs: Annotated[Path | None, typer.Option(metavar="FOLDER", help="default: pairs/ in the run folder")] = None,
    dry_run: DryRunOption = False,
) -> None:
    """pairs/ -> targets/: train the winning and losing models of data-driven targets. Under torchrun: shared work."""
    settings = read_recipe(recipe, overrides, output)
    if dry_run:
        return print_plan(settings, "targets")
    from .alignment import open_run, targets_stage

    print(targets_stage(settings, open_run(settings), pairs))


@app.command(short_help="pairs/ -> policy_run/policy, or one baseline")
@plainly
def train(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    output: OutputOption = None,
    pairs: Annotated[Path | None, typer.Option(metavar="FOLDER", help="default: pairs/ in the run folder")] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="NAME", help="train this baseline instead of the policy")
    ] = None,
    dry_run: DryRunOption = False,
    probe: ProbeOption = False,
) -> None:
    """pairs/ -> policy_run/policy: train the policy, or one baseline. Under torchrun: shared work."""
    settings = read_recipe(recipe, overrides, output)
    if dry_run or probe:
        return print_plan(settings, "train" if baseline is None else f"baseline {baseline}", probe=probe)
    from .alignment import open_run, train_stage

    print(train_stage(settings, open_run(settings), baseline, pairs))


@app.command(short_help="policies -> scores/: same prompts and seeds for all")
@plainly
def evaluate(
    recipe: RecipeArgument, overrides: SetOption = None, output: OutputOption = None, dry_run: DryRunOption = False
) -> None:
    """policies -> scores/: the same prompts and seeds for reference and policies, scored."""
    settings = read_recipe(recipe, overrides, output)
    if dry_run:
        return print_plan(settings, "evaluate")
    from .alignment import evaluate_stage, open_run, single_process

    single_process("evaluate")
    print(evaluate_stage(settings, open_run(settings)))


@app.command(short_help="a run folder -> report.html and summary.json")
@plainly
def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="a run folder, or the recipe that made one")],
    overrides: SetOption = None,
    output: OutputOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """a run folder -> report.html and summary.json."""
    from .recipe_file import bundled_recipes

    if output is None and not Path(run).exists() and run not in bundled_recipes():
        raise UserError(f"{run} does not exist; give the run folder that `ddspo align` made, such as runs/demo")
    folder = Path(run) if Path(run).is_dir() and output is None else read_recipe(run, overrides, output).output
    if dry_run:
        return typer.echo(f"would write {folder / 'report.html'} and {folder / 'summary.json'}; no network evaluations")
    from .alignment import report_stage, single_process

    single_process("report")
    print(report_stage(folder))


from . import cli_tools as _cli_tools  # noqa: E402, F401  (after the road's verbs, so that --help lists those first)


def main() -> None:
    """The `ddspo` command."""
    app()
