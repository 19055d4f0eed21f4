"""The degradation stage: prompts in, `degraded.jsonl` out; resumable, and shared by any number of processes."""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import Digest, write_json
from ..processes import Process, this_process
from ..progress import announce, progress
from ..recipe import Degradation
from ..rng import numpy_generator
from .methods import DEGRADERS, deciding_settings
from .parts import STRIDE, Parts, PartWriter
from .quality import Embed, QualityFilter
from .result import DegradeSummary as DegradeSummary
from .result import answers_path as answers_path
from .result import claim, finish, finished_by_others
from .result import settings_path as settings_path
from .result import skipped_path as skipped_path
from .sources import PromptRecord
from .variants import Degrader, Outcome, StreamDegrader, degrade_one

FORMAT = 1


def _row(record: PromptRecord, outcome: Outcome, distances: list[dict[str, float]], seed: int) -> dict[str, Any]:
    """One line of a part; `skipped` marks those that end in the list of skipped prompts."""
    dropped = {"dropped": dict(outcome.dropped)} if outcome.dropped else {}
    if outcome.skipped is not None:
        again = {"try_again": True} if outcome.passing else {}
        return {"id": record.id, "prompt": record.prompt, "skipped": outcome.skipped, **again, **dropped}
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


def degrade_prompts(
    settings: Degradation,
    records: Collection[PromptRecord],
    output: Path,
    seed: int,
    *,
    embed: Embed | None = None,
    try_again: bool = True,
) -> DegradeSummary:
    """Make degraded prompts for every record and write them to `output` (JSON lines, in the order of the records).

    A row is {"id", "prompt", "degraded_prompts", "how": [{"kind", "change", "text_distance"}], "seed", "meta"}. Beside
    it stand `*.settings.json` (settings and summary) and `*.skipped.jsonl` (prompts that got none, with the reason).
    Draws depend on (seed, prompt) only. Interrupted, the same call goes on where it stopped; whole, it does nothing,
    unless prompts were skipped for a reason that may pass: those are tried again. Several processes (torchrun, or RANK
    and WORLD_SIZE set by hand) on one file system share the work; the result is the same, byte for byte.

    Args:
        settings: the method and its settings.
        records: unique prompts, as `read_prompts` or, without holding them in memory, `open_prompts` gives them.
        output: usually `degraded.jsonl`.
        seed: the run seed.
        embed: texts -> [N, D], the model's text encoder; its distances are recorded and can be filtered on.
        try_again: False leaves a whole result alone even when prompts could be tried again.

    Raises:
        UserError: `output` was made with other settings or prompts (the difference is told), or none got a variant.
    """
    described = _described(settings, records, seed, embed)
    process = this_process()
    degrader = DEGRADERS[settings.method](settings, answers_path(output, process.rank))
    quality = QualityFilter(settings.min_text_distance, settings.min_embedding_distance, embed)
    finished = claim(output, described, process)
    parts = Parts.of(output, len(records))
    if finished is not None and finished.written and not (try_again and finished.passing):
        if process.is_main:
            parts.remove()
        return finished
    if finished is not None and process.is_main:
        write_json(settings_path(output), described)
    _work(degrader, quality, records, parts, seed, settings.variants, process)
    if not process.is_main:
        return finished_by_others(output, parts)
    parts.wait_for_all()
    skipped = getattr(records, "skipped", None)
    summary = finish(output, parts, described, skipped.counts if skipped else {})
    if repaired := getattr(records, "repaired", None):
        announce(f"degrade: prompts mended while reading: {repaired}")
    if not summary.written:
        raise UserError(
            f"degradation.method: '{settings.method}' could degrade no prompt ({summary.skipped}); "
            f"see {skipped_path(output)} and choose another method"
        )
    return summary


def _described(
    settings: Degradation, records: Collection[PromptRecord], seed: int, embed: Embed | None
) -> dict[str, Any]:
    """Everything that decides the result."""
    known = getattr(records, "digest", None)
    if known is None:
        digest = Digest()
        for record in records:
            digest.add(record.id)
        known = digest.text()
    described = {
        "format": FORMAT,
        "degradation": deciding_settings(settings),
        "seed": seed,
        "prompts": {"count": len(records), "digest": known},
    }
    if (encoder := getattr(embed, "identity", None)) is not None:
        described["text_encoder"] = encoder
    told: dict[str, Any] = json.loads(json.dumps(described))
    return told


def _work(
    degrader: Degrader | StreamDegrader,
    quality: QualityFilter,
    records: Collection[PromptRecord],
    parts: Parts,
    seed: int,
    variants: int,
    process: Process,
) -> None:
    """Make what this process's parts lack."""
    asked: deque[tuple[int, PromptRecord]] = deque()

    def pending() -> Iterator[PromptRecord]:
        for item in parts.missing(records, process):
            asked.append(item)
            yield item[1]

    with (
        contextlib.closing(outcomes(degrader, pending(), seed, variants)) as made,
        PartWriter(parts) as writer,
        _bar(parts, process) as bar,
    ):
        told = ((item := asked.popleft(), item[1].prompt, outcome) for outcome in made)
        for (part, record), outcome, distances in quality.measured(told, STRIDE):
            writer.write(part, _row(record, outcome, distances, seed))
            bar.update()
        if asked:
            raise RuntimeError(f"'{degrader.name}' gave no outcome for {len(asked)} prompts")


def _bar(parts: Parts, process: Process) -> Any:
    done, total = parts.made_by(process)
    return progress(total, "degrade", "prompts", done=done)
