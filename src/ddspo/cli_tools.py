"""Verbs beside the road from prompts to report: comparisons and tools for policies, pairs and measurements.

A verb is a function with `@app.command()` and `@plainly`; it imports what it needs inside, so that --help stays fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_base import DryRunOption, OutputOption, SetOption, app, plainly, read_recipe


@app.command(short_help="methods x values x seeds -> comparison.html")
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
    """methods x values x seeds on one set of pairs -> comparison.html, .json and .md."""
    from .comparison.matrix import load_matrix

    settings, base = load_matrix(matrix, overrides or (), output)
    if dry_run:
        from .comparison.plan import plan_text

        return typer.echo(plan_text(settings, base))
    from .comparison.run import compare, result_path

    page = compare(settings, base, processes=workers, say=lambda line: print(line, flush=True))
    for where in settings.heldout:
        print(result_path(base.output, settings, where).with_suffix(".md").read_text(encoding="utf-8"))
    print(f"page: {page.resolve()}")


@app.command(name="import", short_help="human preferences -> pairs/")
@plainly
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="a preference set: parquet (file, folder, pattern), .csv or .jsonl table, folder chosen/ rejected/, "
            "folder of latents of the published code, or a Hugging Face data set (owner/name)",
        ),
    ],
    recipe: Annotated[str, typer.Option("--recipe", metavar="RECIPE", help="the one to train: its model encodes")],
    pairs: Annotated[
        Path, typer.Option("--output", metavar="PAIRS", help="the pairs folder, for `ddspo train --pairs`")
    ],
    overrides: SetOption = None,
    files: Annotated[str, typer.Option(metavar="PATTERN", help="which files of a folder or data set")] = "**/*.parquet",
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="look at the first N rows only")] = None,
    max_aspect: Annotated[
        float, typer.Option(metavar="RATIO", min=1, help="of a bucket, long side over short; 1: one size")
    ] = 2.0,
    max_upscale: Annotated[
        float, typer.Option(metavar="FACTOR", min=1, help="leave out pictures that would grow by more")
    ] = 2.0,
    flip: Annotated[
        bool, typer.Option("--flip", help="mirror half of the pairs; captions of sides turn wrong")
    ] = False,
    degraded: Annotated[
        Path | None, typer.Option(metavar="FILE", help="degraded.jsonl, joined by prompt: for training_free")
    ] = None,
    batch_pairs: Annotated[int, typer.Option(metavar="N", min=1, help="pairs per call of the autoencoder")] = 8,
    allow_outside: Annotated[
        bool, typer.Option("--allow-outside", help="let a table name files outside its folder")
    ] = False,
    dry_run: DryRunOption = False,
) -> None:
    """human preferences -> pairs/: decode, bucket by shape, encode. Under torchrun: shared work."""
    from .pairs.import_pairs import ImportSettings, import_pairs, plan_import

    settings = ImportSettings(
        files=files,
        limit=limit,
        max_aspect=max_aspect,
        max_upscale=max_upscale,
        flip=flip,
        degraded=degraded,
        batch_pairs=batch_pairs,
        allow_outside=allow_outside,
    )
    if dry_run:
        return typer.echo(plan_import(source, read_recipe(recipe, overrides, None), settings))
    print(import_pairs(source, pairs, read_recipe(recipe, overrides, None), settings))


@app.command(short_help="a LoRA policy -> a complete pipeline folder")
@plainly
def merge(
    policy: Annotated[Path, typer.Argument(metavar="POLICY", help="a run folder, or the 'policy' folder of one")],
    output: Annotated[Path, typer.Option("--output", metavar="FOLDER", help="the pipeline folder to write")],
    base: Annotated[
        str | None, typer.Option(metavar="BASE", help="where the base is now; default: where it was")
    ] = None,
    baseline: Annotated[str | None, typer.Option(metavar="NAME", help="the run's baseline instead")] = None,
    dry_run: DryRunOption = False,
) -> None:
    """a LoRA policy -> a complete pipeline folder with the LoRA inside its weights."""
    from .hub import find_policy

    found = find_policy(policy, baseline)
    if dry_run:
        return typer.echo(f"would merge {found} into its base and write {output}; no network evaluations")
    from .families.merge import merge_policy

    print(merge_policy(found, output, base=base))


@app.command(short_help="a policy -> the Hugging Face hub, with its card")
@plainly
def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder, or a pipeline or policy folder of ddspo")],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="owner/name on the Hugging Face hub")],
    baseline: Annotated[str | None, typer.Option(metavar="NAME", help="the run's baseline instead")] = None,
    private: Annotated[bool, typer.Option("--private", help="if the repository is made now")] = False,
    dry_run: DryRunOption = False,
) -> None:
    """a policy -> the Hugging Face hub, with its model card; log in first with `hf auth login`."""
    from .hub import find_policy, push_policy

    found = find_policy(run, baseline)
    if dry_run:
        size = sum(file.stat().st_size for file in found.rglob("*") if file.is_file())
        return typer.echo(f"would upload {found} ({size / 1e6:.1f} MB) to {repo_id}")
    print(push_policy(found, repo_id, private=private))
