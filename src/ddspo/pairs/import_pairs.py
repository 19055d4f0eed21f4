"""Preference pairs from elsewhere into a pairs folder: `ddspo import`.

    source --rows--> parts of about a thousand rows --decode, bucket, encode--> shards of one size each --> pairs.json

A part is the unit of work, made from its rows alone and recorded last, so interruptions and the number of processes
change nothing. Repeats across parts are left out at the end, when `pairs.json` numbers the pairs.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..families.pipeline import PipelineFamily
from ..files import require_free_space, write_json
from ..folder_lock import only_one
from ..ledger import Ledger
from ..processes import Process, local_device, this_process
from ..progress import announce, progress
from ..recipe import Recipe
from .bucket_sizes import bucket_sizes, needed_multiple_px
from .build import claim
from .import_finish import ImportSummary, finish, is_done, record_path, summarize_import
from .import_part import PartMaker
from .mixed import MANIFEST, MIXED_FORMAT
from .plan import DegradedPrompt, fingerprint, read_degraded
from .source_open import open_source
from .sources import Part, Source, first_rows

_INDEX_BYTES_PER_PAIR = 1024
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class ImportSettings:
    """How pictures become pairs.

    Attributes:
        files: which files of a folder or hub data set.
        limit: look at this many rows; None: all.
        max_aspect: the longest side over the shortest of a bucket, at most; 1: one size for all.
        max_upscale: pairs with a picture that would have to grow by more are left out.
        flip: mirror half of the pairs, both sides alike. Captions that say left or right become wrong.
        degraded: a degraded.jsonl whose degraded prompts the pairs of the same prompt get.
        batch_pairs: pairs per call of the autoencoder.
        rows_per_part: rows per unit of work: what an interruption costs at most.
        allow_outside: let a table name files outside its folder.
    """

    files: str = "**/*.parquet"
    limit: int | None = None
    max_aspect: float = 2.0
    max_upscale: float = 2.0
    flip: bool = False
    degraded: Path | None = None
    batch_pairs: int = 8
    rows_per_part: int = 1024
    allow_outside: bool = False


def import_pairs(
    source: str,
    output: Path,
    recipe: Recipe,
    settings: ImportSettings | None = None,
    *,
    family: PipelineFamily | None = None,
) -> ImportSummary:
    """Bring a preference set into a pairs folder, which `PairStore` reads and `ddspo train --pairs` trains on.

    The same call again finishes what is missing. Several processes (torchrun) on one file system share the parts.

    Args:
        source: see `open_source`.
        output: the pairs folder: new, or of the same import.
        recipe: model, seed and pairs.pairs_per_shard are read; latents fit models with the same autoencoder.
        settings: None: the defaults.
        family: the model if it is loaded already.

    Raises:
        UserError: a source that is none, a folder of other pairs or one that another process imports into, no space, no
            memory, or no pair that can be used.
    """
    settings, process = settings or ImportSettings(), this_process()
    with only_one(output, "ddspo import", main=process.is_main):
        return _import(source, output, recipe, settings, family, process)


def _import(
    source: str,
    output: Path,
    recipe: Recipe,
    settings: ImportSettings,
    family: PipelineFamily | None,
    process: Process,
) -> ImportSummary:
    opened, maker, prompts = _prepare(source, output, recipe, settings, family)
    parts = first_rows(opened.parts, settings.limit)
    claim(output, _identity(opened, maker, settings, fingerprint(prompts) if prompts else None), process)
    mine = [number for number in process.share(len(parts)) if not is_done(output, number)]
    if mine:
        if process.is_main:
            announce(f"import: {_foretell(source, parts, maker)}; {sum(parts[n].take for n in mine)} rows to do")
            still = sum(part.take for number, part in enumerate(parts) if not is_done(output, number))
            require_free_space(output, still * _bytes_per_pair(maker), f"up to {still} pairs")
        _make(opened, parts, mine, maker)
    _wait_until(lambda: all(record_path(output, number).exists() for number in range(len(parts))))
    if process.is_main and not (output / MANIFEST).exists():
        finish(output, len(parts))
    _wait_until((output / MANIFEST).exists)
    return summarize_import(output)


def plan_import(source: str, recipe: Recipe, settings: ImportSettings | None = None) -> str:
    """What an import will read and write, in one line; nothing is made.

    Raises:
        UserError: as `import_pairs`.
    """
    settings = settings or ImportSettings()
    opened, maker, _ = _prepare(source, Path(), recipe, settings, None)
    return _foretell(source, first_rows(opened.parts, settings.limit), maker)


def _prepare(
    source: str, output: Path, recipe: Recipe, settings: ImportSettings, family: PipelineFamily | None
) -> tuple[Source, PartMaker, list[DegradedPrompt]]:
    _check(settings)
    family = family or _load(recipe)
    opened = open_source(
        source,
        settings.rows_per_part,
        channels=family.latent_channels,
        files=settings.files,
        allow_outside=settings.allow_outside,
    )
    prompts = read_degraded(settings.degraded) if settings.degraded else []
    degraded = {prompt.prompt: tuple(variant.text for variant in prompt.variants) for prompt in prompts}
    return opened, _maker(family, recipe, settings, output, degraded), prompts


def _check(settings: ImportSettings) -> None:
    for name, least in (("batch_pairs", 1), ("rows_per_part", 1), ("max_aspect", 1), ("max_upscale", 1)):
        if getattr(settings, name) < least:
            raise UserError(f"--{name.replace('_', '-')} must be at least {least}, found {getattr(settings, name)}")
    if settings.limit is not None and settings.limit < 1:
        raise UserError(f"--limit must be at least 1, found {settings.limit}")


def _load(recipe: Recipe) -> PipelineFamily:
    from ..families.load import load_model

    return load_model(recipe.model, local_device())


def _maker(
    family: PipelineFamily,
    recipe: Recipe,
    settings: ImportSettings,
    output: Path,
    degraded: dict[str, tuple[str, ...]],
) -> PartMaker:
    trained = family.trained_size_px()
    base = recipe.model.height_px or trained[0], recipe.model.width_px or trained[1]
    family.latent_shape(*base)  # refuses a size that the model does not take
    batch = settings.batch_pairs
    return PartMaker(
        family,
        output,
        bucket_sizes(base, needed_multiple_px(family), settings.max_aspect),
        recipe.seed,
        settings.flip,
        settings.max_upscale,
        batch,
        max(1, recipe.pairs.pairs_per_shard // batch) * batch,
        degraded,
    )


def _identity(source: Source, maker: PartMaker, settings: ImportSettings, degraded: str | None) -> dict[str, Any]:
    """Everything that decides a bit of the result."""
    told = dataclasses.asdict(settings)
    return {
        "format": MIXED_FORMAT,
        "source": source.description,
        "autoencoder_fingerprint": maker.family.part_fingerprints()["vae"],
        "dtype": str(maker.family.dtype),
        "seed": maker.seed,
        "pairs_per_shard": maker.pairs_per_shard,
        "buckets_px": [list(size) for size in maker.buckets],
        "degraded_fingerprint": degraded,
        **{name: told[name] for name in ("limit", "max_upscale", "flip", "batch_pairs", "rows_per_part")},
    }


def _bytes_per_pair(maker: PartMaker) -> int:
    latent = math.prod(maker.family.latent_shape(*maker.buckets[0]))
    return 2 * latent * maker.family.dtype.itemsize + _INDEX_BYTES_PER_PAIR


def _foretell(source: str, parts: list[Part], maker: PartMaker) -> str:
    rows, (height, width) = sum(part.take for part in parts), maker.buckets[0]
    return (
        f"{rows} rows of {source} in {len(parts)} parts, at most {rows * _bytes_per_pair(maker) / 1e9:.2f} GB in "
        f"{len(maker.buckets)} sizes of about {height}×{width} px"
    )


def _make(source: Source, parts: list[Part], mine: list[int], maker: PartMaker) -> None:
    with progress(sum(parts[number].take for number in mine), "import", "rows") as bar:
        for number in mine:
            cost = Ledger()
            record = maker.make(number, source.read(parts[number]), bar.update)
            write_json(
                record_path(maker.folder, number), dataclasses.asdict(record) | {"seconds": cost.as_dict()["seconds"]}
            )
    maker.family.release("vae")


def _wait_until(there: Callable[[], bool]) -> None:
    """Return when the other processes have done theirs. Files tell: no process group, so no time limit."""
    told = False
    while not there():
        if not told:
            announce("import: waiting for the other processes")
            told = True
        time.sleep(_POLL_SECONDS)
