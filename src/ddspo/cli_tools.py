"""Verbs beside the road from prompts to report: comparisons and tools for policies, pairs and measurements.

A verb is a function with `@app.command()` and `@plainly`; it imports what it needs inside, so that --help stays fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_base import DryRunOption, OutputOption, SetOption, app, plainly


@app.command()
@plainly
def compare(
    matrix: Annotated[Path, typer.Argument(metavar="MATRIX", help="a YAML file of methods, values and seeds")],
    overrides: SetOption = None,
    output: OutputOption = None,
    workers: Annotated[
        int, typer.Option(metavar="N", min=1, help="runs worked on side by side, in processes of one thread each")
    ] = 1,
    dry_run: DryRunOption = False,
) -> None:
    """methods x values x seeds on one set of pairs -> comparison.html, comparison.json, table.md."""
    from .comparison.matrix import load_matrix

    settings, base = load_matrix(matrix, overrides or (), output)
    if dry_run:
        from .comparison.tables import plan_text

        return typer.echo(plan_text(settings, base))
    from .comparison.run import compare

    page = compare(settings, base, processes=workers, say=lambda line: print(line, flush=True))
    print((base.output / "table.md").read_text(encoding="utf-8"))
    print(f"page: {page.resolve()}")
