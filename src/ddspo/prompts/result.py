"""What stands on disk beside `degraded.jsonl`: whose it is, what was skipped, what was paid for; and joining it."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import atomic_path, differences, read_json, write_json
from ..processes import Process
from .parts import Parts

_POLL_SECONDS = 0.5
_CLAIM_PATIENCE_SECONDS = 600.0


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
    passing: int = 0
    """of the skipped prompts, those whose reason may pass: the next call tries them again"""

    def text(self) -> str:
        """One line: what was made, what was left out and why."""
        line = f"{self.variants} degraded prompts of {self.written} prompts"
        for what, counts in (("skipped", self.skipped), ("dropped variants", self.dropped)):
            if counts:
                line += f"; {what}: " + ", ".join(f"{number} {reason}" for reason, number in counts.items())
        if self.passing:
            line += f"; the same command again tries {self.passing} of them once more"
        return line

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "output": self.output.name}


def settings_path(output: Path) -> Path:
    """The sidecar beside `degraded.jsonl`: settings it was made with, and the summary once it is whole."""
    return output.with_name(f"{output.stem}.settings.json")


def skipped_path(output: Path) -> Path:
    """The file beside `degraded.jsonl` that lists every prompt without a degraded prompt, with the reason."""
    return output.with_name(f"{output.stem}.skipped.jsonl")


def answers_path(output: Path, rank: int = 0) -> Path:
    """The journal beside `degraded.jsonl` of every answer that a server gave, so that none is paid for twice.

    Each process writes its own and reads all.
    """
    return output.with_name(f"{output.stem}.answers{f'-{rank}' if rank else ''}.jsonl")


def claim(output: Path, settings: dict[str, Any], process: Process) -> DegradeSummary | None:
    """Write the sidecar, or check that it says the same; the summary of a finished result.

    Raises:
        UserError: `output` belongs to other settings or other prompts, or to nobody.
    """
    sidecar = settings_path(output)
    if not process.is_main:
        _wait_for(sidecar, settings)
    there = read_json(sidecar) if sidecar.exists() else None
    summary = there.pop("summary", None) if there else None
    lines = differences(there, settings) if there else []
    if there is None or (lines and summary and not summary["written"] and process.is_main):
        # Settings under which no prompt could be degraded bind nobody.
        if there is None and output.exists():
            raise UserError(
                f"{output} exists without {sidecar.name}, so how it was made is unknown; choose another file"
            )
        Parts.of(output, 1).remove()
        write_json(sidecar, settings)
        return None
    if lines:
        raise UserError(
            f"{output} was made with other settings ({'; '.join(lines)}); choose another file, or delete it "
            f"together with {sidecar.name} to start over"
        )
    return DegradeSummary(**{**summary, "output": output}) if summary else None


def _wait_for(sidecar: Path, settings: dict[str, Any]) -> None:
    """Give the main process time to claim the result."""
    give_up = time.monotonic() + _CLAIM_PATIENCE_SECONDS
    while time.monotonic() < give_up:
        with contextlib.suppress(UserError):
            if not differences({k: v for k, v in read_json(sidecar).items() if k != "summary"}, settings):
                return
        time.sleep(_POLL_SECONDS)


def finish(output: Path, parts: Parts, settings: dict[str, Any], source_skips: dict[str, int]) -> DegradeSummary:
    """Join the parts into the result and the list of skipped prompts, and complete the sidecar."""
    kinds: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    reasons: Counter[str] = Counter({f"source: {reason}": count for reason, count in source_skips.items()})
    written = passing = 0
    with (
        atomic_path(output) as result_path,
        atomic_path(skipped_path(output)) as skipped,
        result_path.open("w", encoding="utf-8") as good,
        skipped.open("w", encoding="utf-8") as bad,
    ):
        for line in parts.lines():
            row = json.loads(line)
            if "dropped" in row:
                dropped.update(row.pop("dropped"))
                line = json.dumps(row, ensure_ascii=False) + "\n"
            if "skipped" in row:
                reasons[row["skipped"]] += 1
                passing += row.get("try_again", False)
                bad.write(line)
                continue
            for how in row["how"]:
                kinds[how["kind"]] += 1
            written += 1
            good.write(line)
    if not written:
        output.unlink()
    summary = DegradeSummary(
        output, parts.count, written, kinds.total(), dict(kinds), dict(reasons), dict(dropped), passing
    )
    write_json(settings_path(output), {**settings, "summary": summary.as_dict()})
    parts.remove()
    return summary


def finished_by_others(output: Path, parts: Parts) -> DegradeSummary:
    """The summary that the main process writes when it has joined all parts."""
    while True:
        summary = read_json(settings_path(output)).get("summary")
        if summary and not parts.folder.exists():
            return DegradeSummary(**{**summary, "output": output})
        time.sleep(_POLL_SECONDS)
