from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddspo.errors import UserError
from ddspo.processes import Process
from ddspo.prompts import degrade as stage
from ddspo.prompts.degrade import degrade_prompts, settings_path, skipped_path
from ddspo.prompts.parts import Parts
from ddspo.prompts.removal import RemovalDegrader
from ddspo.prompts.sources import PromptList, PromptRecord, Skipped, read_prompts
from ddspo.prompts.stream import open_prompts
from ddspo.prompts.variants import Variant
from ddspo.recipe import Degradation

REMOVAL = Degradation(method="removal", variants=3)


def records(count: int = 100) -> list[PromptRecord]:
    return [PromptRecord(f"{i:016x}", f"a red cat number {i} on a mat", {"row": i}) for i in range(count)]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rows_follow_the_contract(tmp_path: Path) -> None:
    output = tmp_path / "degraded.jsonl"
    given = PromptList([*records(3), PromptRecord("f" * 16, "cat")], Skipped({"empty": 2}), Skipped())
    summary = degrade_prompts(REMOVAL, given, output, seed=7)
    made = rows(output)
    assert [row["id"] for row in made] == [record.id for record in given[:3]]
    assert set(made[0]) == {"id", "prompt", "degraded_prompts", "how", "seed", "meta"}
    assert made[1]["meta"] == {"row": 1} and made[1]["seed"] == 7
    assert len(made[0]["degraded_prompts"]) == len(made[0]["how"]) == 3
    assert made[0]["how"][0]["kind"] == "removal"
    assert summary.prompts == 4 and summary.written == 3 and summary.variants == 9
    assert summary.skipped == {"source: empty": 2, "one word": 1}
    assert rows(skipped_path(output)) == [{"id": "f" * 16, "prompt": "cat", "skipped": "one word"}]
    sidecar = json.loads(settings_path(output).read_text(encoding="utf-8"))
    assert sidecar["degradation"]["method"] == "removal" and sidecar["summary"]["written"] == 3


def test_a_finished_stage_is_left_alone(tmp_path: Path) -> None:
    output = tmp_path / "degraded.jsonl"
    first = degrade_prompts(REMOVAL, records(), output, seed=0)
    before = output.stat().st_mtime_ns
    assert degrade_prompts(REMOVAL, records(), output, seed=0) == first
    assert output.stat().st_mtime_ns == before


class Dying:
    """Raises at one prompt, as a killed process would."""

    name = "removal"

    def __init__(self, at: str) -> None:
        self.at = at
        self.seen: list[str] = []

    def degrade(self, prompt: str, rng: np.random.Generator, variants: int) -> list[Variant]:
        if prompt == self.at:
            raise KeyboardInterrupt
        self.seen.append(prompt)
        return RemovalDegrader(0.4, 0.7).degrade(prompt, rng, variants)


@pytest.mark.parametrize(("dies_at", "made_before"), [(12, 0), (33, 32), (70, 64), (99, 96)])
def test_interrupted_and_resumed_equals_unbroken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int, made_before: int
) -> None:
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    degrade_prompts(REMOVAL, records(), whole, seed=0)
    monkeypatch.setitem(stage.DEGRADERS, "removal", lambda settings, journal: Dying(records()[dies_at].prompt))
    with pytest.raises(KeyboardInterrupt):
        degrade_prompts(REMOVAL, records(), broken, seed=0)
    assert not broken.exists()
    folder = Parts.of(broken, 100).folder
    for partial in folder.glob("*.partial"):
        with partial.open("a", encoding="utf-8") as file:
            file.write('{"id": "torn')
    second = Dying("")
    monkeypatch.setitem(stage.DEGRADERS, "removal", lambda settings, journal: second)
    degrade_prompts(REMOVAL, records(), broken, seed=0)
    assert broken.read_bytes() == whole.read_bytes()
    assert second.seen == [record.prompt for record in records()[made_before:]]
    assert not folder.exists()


CHILD = """
import sys
from pathlib import Path
from ddspo.prompts.degrade import degrade_prompts
from ddspo.prompts.sources import PromptRecord
from ddspo.recipe import Degradation
records = [PromptRecord(f"{i:016x}", f"a red cat number {i} on a mat", {"row": i}) for i in range(100)]
summary = degrade_prompts(Degradation(method="removal", variants=3), records, Path(sys.argv[1]), seed=0)
print(summary.written, summary.variants)
"""


def test_processes_share_the_work_and_another_number_takes_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, shared = tmp_path / "whole.jsonl", tmp_path / "shared.jsonl"
    expected = degrade_prompts(REMOVAL, records(), whole, seed=0)
    # the main process of three dies in its first part, then two processes finish
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setitem(stage.DEGRADERS, "removal", lambda settings, journal: Dying(records()[5].prompt))
    with pytest.raises(KeyboardInterrupt):
        degrade_prompts(REMOVAL, records(), shared, seed=0)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "WORLD_SIZE": "2"}
    command = [sys.executable, "-c", CHILD, str(shared)]
    children = [
        subprocess.Popen(command, env={**environment, "RANK": rank}, stdout=subprocess.PIPE, text=True)
        for rank in ("1", "0")
    ]
    told = [child.communicate(timeout=120)[0].split() for child in children]
    assert told == [[str(expected.written), str(expected.variants)]] * 2
    assert shared.read_bytes() == whole.read_bytes()
    assert skipped_path(shared).read_bytes() == skipped_path(whole).read_bytes()
    assert sorted(path.name for path in tmp_path.glob("shared*")) == [
        "shared.jsonl",
        "shared.settings.json",
        "shared.skipped.jsonl",
    ]


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_every_prompt_falls_to_exactly_one_process(tmp_path: Path, processes: int) -> None:
    given = records(300)
    parts = Parts.of(tmp_path / "d.jsonl", len(given))
    shares = [list(parts.missing(given, Process(rank, processes))) for rank in range(processes)]
    assert sorted(r.id for share in shares for _, r in share) == [r.id for r in given]
    assert [parts.made_by(Process(rank, processes)) for rank in range(processes)] == [(0, len(s)) for s in shares]


def test_other_settings_seed_or_prompts_are_refused(tmp_path: Path) -> None:
    output = tmp_path / "degraded.jsonl"
    degrade_prompts(REMOVAL, records(), output, seed=0)
    with pytest.raises(UserError, match="degradation.remove_low: 0.4 there, 0.5 now"):
        degrade_prompts(REMOVAL.model_copy(update={"remove_low": 0.5}), records(), output, seed=0)
    with pytest.raises(UserError, match="seed: 0 there, 1 now"):
        degrade_prompts(REMOVAL, records(), output, seed=1)
    with pytest.raises(UserError, match="prompts.count: 100 there, 19 now"):
        degrade_prompts(REMOVAL, records(19), output, seed=0)
    stray = tmp_path / "stray.jsonl"
    stray.write_text("{}\n", encoding="utf-8")
    with pytest.raises(UserError, match="how it was made is unknown"):
        degrade_prompts(REMOVAL, records(), stray, seed=0)


def test_a_draw_depends_on_the_prompt_alone(tmp_path: Path) -> None:
    degrade_prompts(REMOVAL, records(), tmp_path / "a.jsonl", seed=0)
    degrade_prompts(REMOVAL, records()[::-1][:5], tmp_path / "b.jsonl", seed=0)
    all_rows = {row["id"]: row for row in rows(tmp_path / "a.jsonl")}
    assert all(row == all_rows[row["id"]] for row in rows(tmp_path / "b.jsonl"))


def test_nothing_degraded_leaves_no_result_and_binds_nobody(tmp_path: Path) -> None:
    output = tmp_path / "a.jsonl"
    for _ in range(2):
        with pytest.raises(UserError, match="'scenes' could degrade no prompt .*'not a tinyscenes prompt': 20"):
            degrade_prompts(Degradation(), records(20), output, seed=0)
        assert not output.exists() and len(rows(skipped_path(output))) == 20
    assert degrade_prompts(REMOVAL, records(20), output, seed=0).written == 20
    assert not rows(skipped_path(output))


def test_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'magic' is unknown to 'scenes'"):
        degrade_prompts(Degradation(kinds=("magic",)), records(), tmp_path / "b.jsonl", seed=0)
    assert not (tmp_path / "b.settings.json").exists()


def test_a_stream_gives_what_a_list_gives(tmp_path: Path) -> None:
    source = tmp_path / "p.txt"
    source.write_text("\n".join(["a red cat on a mat", "", "a dog and a bird", "a red cat on a mat", "cat"]) + "\n")
    as_list, as_stream = read_prompts(str(source)), open_prompts(str(source))
    assert list(as_stream) == list(as_list) and len(as_stream) == 3
    assert open_prompts(str(source), limit=2, seed=3) == read_prompts(str(source), limit=2, seed=3)
    summary = degrade_prompts(REMOVAL, as_list, tmp_path / "list.jsonl", seed=0)
    assert summary.skipped == {"source: empty": 1, "source: duplicate": 1, "one word": 1}
    assert degrade_prompts(REMOVAL, as_stream, tmp_path / "stream.jsonl", seed=0).skipped == summary.skipped
    for name in ("{}.jsonl", "{}.skipped.jsonl"):
        assert (tmp_path / name.format("list")).read_bytes() == (tmp_path / name.format("stream")).read_bytes()
    assert (
        settings_path(tmp_path / "list.jsonl").read_text().replace("list", "stream")
        == settings_path(tmp_path / "stream.jsonl").read_text()
    )


def test_embedded_prompts_by_default(tmp_path: Path) -> None:
    summary = degrade_prompts(Degradation(), read_prompts("tinyscenes:train"), tmp_path / "d.jsonl", seed=0)
    assert summary.written == summary.prompts and summary.variants == 5 * summary.prompts
    assert len(summary.kinds) == 11


HARD = [
    "x" * 10_000,
    "word " * 2_000,
    "(red:1.3) car <lora:x:1> [blue|green] {a}",
    "قطة حمراء على سجادة زرقاء",
    "一只红色的猫坐在蓝色的垫子上",
    "🐈 🐕‍🦺 👩‍🚀",
    "\u200f\u202e \u200b",
    "a, , ,, b",
    "\N{NO-BREAK SPACE}a\N{NO-BREAK SPACE}b",
    "%s {} \\n \"quoted\" 'x' <b>&amp;</b>",
]


def test_hard_prompts_are_counted_never_a_crash(tmp_path: Path) -> None:
    given = [PromptRecord(f"{i:016x}", text) for i, text in enumerate(HARD)]
    summary = degrade_prompts(REMOVAL, given, tmp_path / "d.jsonl", seed=0)
    assert summary.written + sum(summary.skipped.values()) == len(given)
    assert all(row["prompt"] not in row["degraded_prompts"] for row in rows(tmp_path / "d.jsonl"))
