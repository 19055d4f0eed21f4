"""The end of an import: which parts are done, what they hold together, and `pairs.json`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_json, read_jsonl, write_json
from ..ledger import Ledger
from .mixed import MANIFEST, MixedLayout
from .shards import Shard
from .sources import REPEATED


@dataclass(frozen=True)
class ImportSummary:
    """What a finished import holds and what it left out."""

    folder: Path
    rows: int
    pairs: int
    sizes: dict[str, int]
    """'64x64' (latent height x width) -> pairs"""
    skipped: dict[str, int]
    with_degraded_prompt: int
    seconds: float

    def __str__(self) -> str:
        left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(self.skipped.items())) or "nothing"
        return (
            f"imported {self.pairs} pairs of {self.rows} rows in {len(self.sizes)} sizes; left out: {left_out}; "
            f"{self.with_degraded_prompt} with a degraded prompt; {self.folder}"
        )


def summarize_import(folder: Path) -> ImportSummary:
    """What a finished import holds."""
    told = read_json(folder / MANIFEST)
    seconds = Ledger.load(folder).seconds
    fields = ("rows", "pairs", "sizes", "skipped", "with_degraded_prompt")
    return ImportSummary(folder, **{name: told[name] for name in fields}, seconds=seconds)


def record_path(folder: Path, part: int) -> Path:
    """Where it is written that a part is done."""
    return folder / f"part-{part:05d}.json"


def is_done(folder: Path, part: int) -> bool:
    """Whether a part is recorded and its shards are there, in form."""
    if not record_path(folder, part).exists():
        return False
    try:
        layout = MixedLayout.of(folder, read_json(record_path(folder, part))["shards"])
        for shard in range(layout.shards):
            Shard.open(layout, shard)
    except (UserError, KeyError):
        return False
    return True


def finish(folder: Path, parts: int) -> None:
    """Number the pairs of all parts, leave out repeats, and write `pairs.json`.

    Raises:
        UserError: not one pair can be used; says why.
    """
    seen: set[str] = set()
    shards: list[dict[str, Any]] = []
    total, skipped, sizes, degraded, seconds = 0, Counter[str](), Counter[str](), 0, 0.0
    for number in range(parts):
        record = read_json(record_path(folder, number))
        total, seconds = total + record["rows"], seconds + record["seconds"]
        skipped.update(record["skipped"])
        for shard in record["shards"]:
            left_out = []
            for row_number, row in enumerate(read_jsonl(folder / f"{shard['name']}.jsonl")):
                if row["id"] in seen:
                    left_out.append(row_number)
                else:
                    seen.add(row["id"])
                    degraded += row["degraded_prompt"] is not None
            skipped[REPEATED] += len(left_out)
            sizes["x".join(map(str, shard["latent_shape"][1:]))] += shard["pairs"] - len(left_out)
            shards.append(shard | {"left_out": left_out})
    if not seen:
        reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items()) or "no rows"
        raise UserError(f"no pair of {total} rows can be used ({reasons}); nothing is imported into {folder}")
    Ledger(seconds=seconds).save(folder)
    told = {"rows": total, "pairs": len(seen), "sizes": dict(sizes), "skipped": dict(+skipped)}
    write_json(folder / MANIFEST, told | {"with_degraded_prompt": degraded, "shards": shards})
