"""The command line: thin verbs over the Python API, which load what they need only when they run.

Exit status: 0 done, 2 a mistake in the input (one line on standard error), 130 interrupted. Anything else is a bug and
shows its traceback.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import __version__
from .errors import UserError

if TYPE_CHECKING:
    from .recipe import Recipe

app = typer.Typer(
    name="ddspo",
    help="Align a text-to-image diffusion model with its prompts, without labels (DDSPO).\n\n"
    "RECIPE is a YAML file or the name of a bundled recipe. Every verb takes up what an earlier attempt left: "
    "to resume, run the same command again.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="a YAML file, or a bundled name such as tinyscenes")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="change one field: --set training.max_steps=20; repeatable"),
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", metavar="FOLDER", help="the run folder; default: the recipe's")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="print the resolved recipe and what it will cost, and do nothing")
]


def _plainly(command: Callable[..., None]) -> Callable[..., None]:
    """A mistake of the user ends in one line and a status, never in a traceback."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except UserError as error:
            raise _end(f"error: {error}", 2) from None
        except KeyboardInterrupt:
            raise _end("interrupted; run the same command again to go on from here", 130) from None
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise _end("error: no space left on the disk; free some and run the same command again", 2) from None
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":  # torch's own; torch may not be loaded here
                raise
            mend = "lower training.micro_batch_pairs, pairs.sampling.batch_images or evaluation.sampling.batch_images"
            raise _end(f"error: out of device memory; {mend} and run the same command again", 2) from None

    return wrapper


def _end(line: str, status: int) -> typer.Exit:
    print(line.replace("\n", " "), file=sys.stderr)
    return typer.Exit(status)


def _recipe(name: str, overrides: list[str] | None, output: Path | None) -> Recipe:
    from .recipe_file import load_recipe

    return load_recipe(name, overrides or (), output=output)


def _print_plan(recipe: Recipe, *stages: str) -> None:
    from .plan import make_plan

    plan = make_plan(recipe)
    typer.echo((plan.only(*stages) if stages else plan).text())


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ddspo {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    # The libraries' notices about optional parts that are not used here would drown our own lines.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def _align(recipe: Recipe, dry_run: bool) -> None:
    if dry_run:
        return _print_plan(recipe)
    from .alignment import align, headline

    report = align(recipe, say=lambda line: print(line, flush=True))
    print(headline(report.with_name("summary.json")))
    print(f"report: {report.resolve()}")


@app.command()
@_plainly
def demo(overrides: SetOption = None, output: OutputOption = None, dry_run: DryRunOption = False) -> None:
    """Align the embedded model (tinyscenes) and open the road with a report; minutes on two CPU cores."""
    _align(_recipe("tinyscenes", overrides, output), dry_run)


@app.command()
@_plainly
def align(
    recipe: RecipeArgument, overrides: SetOption = None, output: OutputOption = None, dry_run: DryRunOption = False
) -> None:
    """All of it from one recipe: degrade, pairs, train, baselines, evaluate, report."""
    _align(_recipe(recipe, overrides, output), dry_run)


@app.command()
@_plainly
def degrade(
    recipe: RecipeArgument, overrides: SetOption = None, output: OutputOption = None, dry_run: DryRunOption = False
) -> None:
    """prompts -> degraded.jsonl: make degraded variants of every prompt."""
    settings = _recipe(recipe, overrides, output)
    if dry_run:
        return _print_plan(settings, "degrade")
    from .alignment import degrade_stage, open_run, single_process

    single_process("degrade")
    print(degrade_stage(settings, open_run(settings)))


@app.command()
@_plainly
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
    settings = _recipe(recipe, overrides, output)
    if dry_run:
        return _print_plan(settings, "pairs")
    from .alignment import open_run, pairs_stage

    print(pairs_stage(settings, open_run(settings), degraded))


@app.command()
@_plainly
def train(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    output: OutputOption = None,
    pairs: Annotated[Path | None, typer.Option(metavar="FOLDER", help="default: pairs/ in the run folder")] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="NAME", help="train this baseline instead of the policy")
    ] = None,
    dry_run: DryRunOption = False,
) -> None:
    """pairs/ -> policy_run/policy: train the policy, or one baseline. Under torchrun: shared work."""
    settings = _recipe(recipe, overrides, output)
    if dry_run:
        return _print_plan(settings, "train" if baseline is None else f"baseline {baseline}")
    from .alignment import open_run, train_stage

    print(train_stage(settings, open_run(settings), baseline, pairs))


@app.command()
@_plainly
def evaluate(
    recipe: RecipeArgument, overrides: SetOption = None, output: OutputOption = None, dry_run: DryRunOption = False
) -> None:
    """policies -> scores/: the same prompts and seeds for reference and policies, scored."""
    settings = _recipe(recipe, overrides, output)
    if dry_run:
        return _print_plan(settings, "evaluate")
    from .alignment import evaluate_stage, open_run, single_process

    single_process("evaluate")
    print(evaluate_stage(settings, open_run(settings)))


@app.command()
@_plainly
def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="a run folder, or the recipe that made one")],
    overrides: SetOption = None,
    output: OutputOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """a run folder -> report.html and summary.json."""
    folder = Path(run) if Path(run).is_dir() and output is None else _recipe(run, overrides, output).output
    if dry_run:
        return typer.echo(f"would write {folder / 'report.html'} and {folder / 'summary.json'}; no network evaluations")
    from .alignment import report_stage, single_process

    single_process("report")
    print(report_stage(folder))


def main() -> None:
    """The `ddspo` command."""
    app()
