"""What every verb of the command line shares: the app, its options, and how a mistake ends.

Exit status: 0 done, 2 a mistake in the input (one line on standard error), 130 interrupted. Anything else is a bug and
shows its traceback.
"""

from __future__ import annotations

import errno
import functools
import json
import logging
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
ModelOption = Annotated[
    str | None, typer.Option("--model", metavar="MODEL", help="a diffusers folder or Hugging Face id: model.base")
]
PromptsOption = Annotated[str | None, typer.Option("--prompts", metavar="FILE", help="a prompt file: prompts.source")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="print the resolved recipe and what it will cost, and do nothing")
]

ProbeOption = Annotated[
    bool,
    typer.Option("--probe", help="as --dry-run, and run two steps on random pairs to foretell hours"),
]


def plainly(command: Callable[..., None]) -> Callable[..., None]:
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


def read_recipe(
    name: str,
    overrides: list[str] | None,
    output: Path | None,
    model: str | None = None,
    prompts: str | None = None,
) -> Recipe:
    """The checked recipe that RECIPE, --model, --prompts, --set and --output mean; --set has the last word."""
    from .recipe_file import load_recipe

    named = {"model.base": model, "prompts.source": prompts}
    given = [f"{field}={json.dumps(value)}" for field, value in named.items() if value is not None]
    return load_recipe(name, [*given, *(overrides or ())], output=output)


def print_plan(recipe: Recipe, *stages: str, probe: bool = False) -> None:
    """What --dry-run prints: the recipe as resolved and the cost of these stages; of none, all. --probe adds time."""
    from .plan import make_plan

    plan = make_plan(recipe)
    plan = plan.only(*stages) if stages else plan
    typer.echo(plan.text())
    if probe:
        from .training.probe import probe as measure

        typer.echo(measure(recipe).text(plan))


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
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it, and it tells of 4-bit kernels for CPUs
