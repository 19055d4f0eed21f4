"""The degradation stage: prompts in, `degraded.jsonl` out, resumable line by line."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import atomic_path, content_id, differences, read_json, read_jsonl, write_json
from ..progress import progress
from ..recipe import Degradation
from ..rng import numpy_generator
from .methods import DEGRADERS, deciding_settings
from .quality import Embed, QualityFilter
from .sources import PromptList, PromptRecord
from .variants import Degrader, Outcome, StreamDegrader, degrade_one

FORMAT = 1


@dataclass(frozen=True)
class DegradeSummary:
    """What the stage made and what it left out."""

    output: Path
    prompts: int
    """prompts given"""
    written: int
    """prompts that got at least one degraded prompt"""
    variants: int
    """degraded prompts in all"""
    kinds: dict[str, int]
    """degraded prompts by kind"""
    skipped: dict[str, int]
    """prompts without a degraded prompt, by reason; reading's own omissions are under 'source: ...'"""
    dropped: dict[str, int]
    """variants that were made and rejected, by reason"""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "output": self.output.name}


def settings_path(output: Path) -> Path:
    """The sidecar beside `degraded.jsonl`: settings it was made with, and the summary once it is whole."""
    return output.with_name(f"{output.stem}.settings.json")


def skipped_path(output: Path) -> Path:
    """The file beside `degraded.jsonl` that lists every prompt without a degraded prompt, with the reason."""
    return output.with_name(f"{output.stem}.skipped.jsonl")


def _partial_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.partial")


def answers_path(output: Path) -> Path:
    """The journal beside `degraded.jsonl` of every answer that a server gave, so that none is paid for twice."""
    return output.with_name(f"{output.stem}.answers.jsonl")


def _row(record: PromptRecord, outcome: Outcome, distances: list[dict[str, float]], seed: int) -> dict[str, Any]:
    """One line of the partial file; `skipped` marks those that end in the list of skipped prompts."""
    dropped = {"dropped": dict(outcome.dropped)} if outcome.dropped else {}
    if outcome.skipped is not None:
        return {"id": record.id, "prompt": record.prompt, "skipped": outcome.skipped, **dropped}
    measured = zip(outcome.variants, distances, strict=True)
    return {
        "id": record.id,
        "prompt": record.prompt,
        "degraded_prompts": [variant.text for variant in outcome.variants],
        "how": [{"kind": variant.kind, "change": variant.change, **measures} for variant, measures in measured],
        "seed": seed,
        "meta": record.meta,
        **dropped,
    }


def outcomes(
    degrader: Degrader | StreamDegrader, records: Iterable[PromptRecord], seed: int, variants: int
) -> Generator[Outcome, None, None]:
    """The outcome for each record, in order; draws depend on (seed, prompt) only."""
    pending = ((record.prompt, numpy_generator(seed, "degrade", record.id)) for record in records)
    if isinstance(degrader, StreamDegrader):
        yield from degrader.degrade_stream(pending, variants)
        return
    for prompt, rng in pending:
        yield degrade_one(degrader, prompt, rng, variants)


def _claim(output: Path, settings: dict[str, Any]) -> None:
    """Write the sidecar, or check that it says the same.

    Raises:
        UserError: `output` belongs to other settings or other prompts, or to nobody.
    """
    sidecar = settings_path(output)
    if sidecar.exists():
        there = {key: value for key, value in read_json(sidecar).items() if key != "summary"}
        lines = differences(there, json.loads(json.dumps(settings)))
        if lines:
            raise UserError(
                f"{output} was made with other settings ({'; '.join(lines)}); choose another file, or delete it "
                f"together with {sidecar.name} to start over"
            )
        return
    if output.exists():
        raise UserError(f"{output} exists without {sidecar.name}, so how it was made is unknown; choose another file")
    write_json(sidecar, settings)
    _partial_path(output).unlink(missing_ok=True)


def _resume_point(partial: Path, records: Sequence[PromptRecord]) -> int:
    """How many records the partial file already holds; a torn last line is cut off."""
    done, whole = 0, 0
    if not partial.exists():
        return 0
    with partial.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n") or done == len(records):
                break
            if json.loads(line)["id"] != records[done].id:
                raise UserError(f"{partial}, line {done + 1}: not this list of prompts; delete the file to start over")
            done, whole = done + 1, whole + len(line)
    os.truncate(partial, whole)
    return done


def _finish(output: Path, given: int, settings: dict[str, Any], source_skips: dict[str, int]) -> DegradeSummary:
    """Split the partial file into result and list of skipped prompts, and complete the sidecar."""
    kinds: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    reasons: Counter[str] = Counter({f"source: {reason}": count for reason, count in source_skips.items()})
    written = 0
    partial = _partial_path(output)
    with (
        atomic_path(output) as result_path,
        atomic_path(skipped_path(output)) as skipped,
        result_path.open("w", encoding="utf-8") as good,
        skipped.open("w", encoding="utf-8") as bad,
    ):
        for row in read_jsonl(partial):
            dropped.update(row.pop("dropped", {}))
            if "skipped" in row:
                reasons[row["skipped"]] += 1
            else:
                kinds.update(how["kind"] for how in row["how"])
                written += 1
            (bad if "skipped" in row else good).write(json.dumps(row, ensure_ascii=False) + "\n")
    summary = DegradeSummary(output, given, written, kinds.total(), dict(kinds), dict(reasons), dict(dropped))
    write_json(settings_path(output), {**settings, "summary": summary.as_dict()})
    partial.unlink()
    return summary


def _load_summary(output: Path) -> DegradeSummary | None:
    if not output.exists():
        return None
    summary = read_json(settings_path(output)).get("summary")
    return DegradeSummary(**{**summary, "output": output}) if summary else None


def degrade_prompts(
    settings: Degradation, records: Sequence[PromptRecord], output: Path, seed: int, *, embed: Embed | None = None
) -> DegradeSummary:
    """Make degraded prompts for every record and write them to `output` (JSON lines, in the order of the records).

    A row is {"id", "prompt", "degraded_prompts", "how": [{"kind", "change", "text_distance"}], "seed", "meta"}. Beside
    it stand `*.settings.json` (settings and summary) and `*.skipped.jsonl` (prompts that got none, with the reason).
    Draws depend on (seed, prompt) only. Interrupted, the same call goes on where it stopped; whole, it does nothing.

    Args:
        settings: the method and its settings.
        records: unique prompts, as `read_prompts` gives them.
        output: usually `degraded.jsonl`.
        seed: the run seed.
        embed: texts -> [N, D], the model's text encoder; its distances are recorded and can be filtered on.

    Raises:
        UserError: `output` was made with other settings or prompts (the difference is told), or none got a variant.
    """
    described = {
        "format": FORMAT,
        "degradation": deciding_settings(settings),
        "seed": seed,
        "prompts": {"count": len(records), "digest": content_id(*(record.id for record in records))},
    }
    degrader = DEGRADERS[settings.method](settings, answers_path(output))
    quality = QualityFilter(settings.min_text_distance, settings.min_embedding_distance, embed)
    _claim(output, described)
    if (finished := _load_summary(output)) is not None:
        return finished
    made = functools.partial(outcomes, degrader, seed=seed, variants=settings.variants)
    _work(made, quality, records, output, seed)
    source_skips = records.skipped.counts if isinstance(records, PromptList) else {}
    summary = _finish(output, len(records), described, source_skips)
    if not summary.written:
        raise UserError(
            f"degradation.method: '{settings.method}' could degrade no prompt ({summary.skipped}); "
            f"see {skipped_path(output)} and choose another method"
        )
    return summary


def _work(
    make: Callable[[Iterable[PromptRecord]], Generator[Outcome, None, None]],
    quality: QualityFilter,
    records: Sequence[PromptRecord],
    output: Path,
    seed: int,
) -> None:
    """Append to the partial file what it lacks."""
    partial = _partial_path(output)
    start = _resume_point(partial, records)
    with (
        contextlib.closing(make(islice(records, start, None))) as made,
        partial.open("a", encoding="utf-8", buffering=1) as file,
        progress(len(records), "degrade", "prompts", done=start) as bar,
    ):
        measured = quality.measured((record.prompt for record in islice(records, start, None)), made)
        for record, (outcome, distances) in zip(islice(records, start, None), measured, strict=True):
            file.write(json.dumps(_row(record, outcome, distances, seed), ensure_ascii=False) + "\n")
            bar.update()
