"""Run again after trouble with a server: what is done is kept, and no paid call is repeated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ddspo.errors import UserError
from ddspo.prompts import server as backend
from ddspo.prompts.degrade import answers_path, degrade_prompts, settings_path, skipped_path
from ddspo.prompts.sources import PromptRecord
from ddspo.recipe import Degradation, LanguageModel
from helpers.server_cases import Start, records, rows, settings


def test_a_server_that_stays_busy_stops_the_work_and_rerunning_goes_on(tmp_path: Path, start: Start) -> None:
    url, asked = start("always_limited")
    with pytest.raises(UserError, match="HTTP 429 after 4 tries.; what is done is kept, run the same command again"):
        degrade_prompts(settings(url, concurrency=2), records(), tmp_path / "d.jsonl", seed=0)
    assert not (tmp_path / "d.jsonl").exists() and len(asked()) <= 16
    url, _ = start("good")
    assert degrade_prompts(settings(url, concurrency=1), records(), tmp_path / "d.jsonl", seed=0).written == 12


def test_prompts_without_an_answer_are_asked_again_and_only_those(tmp_path: Path, start: Start) -> None:
    url, asked = start("stumbling")
    model = settings(url, timeout_s=5, attempts=2)
    output = tmp_path / "d.jsonl"
    first = degrade_prompts(model, records("a stubborn red car"), output, seed=0)
    assert (first.written, first.passing, first.skipped) == (12, 1, {"server: HTTP 500": 1})
    kept = rows(output)
    paid = len(asked())
    assert degrade_prompts(model, records("a stubborn red car"), output, seed=0, try_again=False) == first
    assert len(asked()) == paid
    second = degrade_prompts(model, records("a stubborn red car"), output, seed=0)
    assert (second.written, second.passing, second.skipped) == (13, 0, {})
    assert rows(output)[1:] == kept and rows(output)[0]["prompt"] == "a stubborn red car"
    assert [call["prompt"] for call in asked()[paid:]] == ["a stubborn red car"]
    degrade_prompts(model, records("a stubborn red car"), output, seed=0)
    assert len(asked()) == paid + 1


def test_processes_share_answers_and_pace(tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    url, asked = start("good")
    output = tmp_path / "d.jsonl"
    (tmp_path / "d.answers-1.jsonl").write_text("")
    degrade_prompts(settings(url), records(), output, seed=0)
    os.rename(answers_path(output), answers_path(output, 1))  # as if process 1 had paid
    whole = output.read_bytes()
    for path in (output, settings_path(output), skipped_path(output)):
        path.unlink()
    degrade_prompts(settings(url), records(), output, seed=0)
    assert len(asked()) == 12 and output.read_bytes() == whole
    monkeypatch.setenv("WORLD_SIZE", "4")
    completer = backend.ServerCompleter(settings(url, concurrency=8, requests_per_minute=60).language_model, None)
    assert completer._workers == 2 and completer._pace._interval_s == pytest.approx(4.0)


CHILD = """
import sys
from pathlib import Path
from ddspo.prompts.degrade import degrade_prompts
from ddspo.prompts.sources import PromptRecord
from ddspo.recipe import Degradation, LanguageModel
url, output = sys.argv[1:]
model = LanguageModel(url=url, name="tiny", concurrency=2)
records = [PromptRecord(f"{i:016x}", f"a red car and a dog number {i}") for i in range(200)]
degrade_prompts(Degradation(method="server", language_model=model), records, Path(output), seed=0)
"""


def test_killed_and_rerun_repeats_no_paid_call(tmp_path: Path, start: Start) -> None:
    url, asked = start("good")
    output = tmp_path / "d.jsonl"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", CHILD, url, str(output)]
    child = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(asked()) < 40 and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not output.exists()
    kept = len(rows(answers_path(output)))
    paid = len(asked())
    assert 30 <= kept < 200
    given = [PromptRecord(f"{i:016x}", f"a red car and a dog number {i}") for i in range(200)]
    model = LanguageModel(url=url, name="tiny", concurrency=2)
    summary = degrade_prompts(Degradation(method="server", language_model=model), given, output, seed=0)
    assert summary.written == 200
    # only what was under way when the process died, at most one request per worker, is asked twice
    assert len(asked()) - paid == 200 - kept
    assert paid - kept <= 2
