from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ddspo.errors import UserError
from ddspo.prompts import server as backend
from ddspo.prompts.degrade import answers_path, degrade_prompts, settings_path, skipped_path
from ddspo.prompts.http_client import ChatClient
from ddspo.prompts.sources import PromptRecord
from ddspo.recipe import Degradation, LanguageModel

SCRIPT = Path(__file__).parents[1] / "helpers" / "chat_server.py"
Start = Callable[[str], tuple[str, Callable[[], list[dict[str, Any]]]]]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a server in a mood; gives its address and a function that reads what it was asked."""
    monkeypatch.setattr(backend.ServerCompleter.__init__, "__defaults__", (0.02,))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with contextlib.ExitStack() as stack:

        def begin(mood: str) -> tuple[str, Callable[[], list[dict[str, Any]]]]:
            log = tmp_path / f"{mood}.log"
            process = stack.enter_context(
                subprocess.Popen([sys.executable, str(SCRIPT), mood, str(log)], stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            url = f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
            return url, lambda: [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

        yield begin


def settings(url: str, fallback: str = "none", **fields: Any) -> Degradation:
    model = LanguageModel(**{"url": url, "name": "tiny", "timeout_s": 10.0, "attempts": 4, **fields})
    return Degradation(method="server", language_model=model, fallback=fallback)


def records(*extra: str, count: int = 12) -> list[PromptRecord]:
    texts = [*extra, *(f"a red car and a dog number {i}" for i in range(count))]
    return [PromptRecord(f"{i:016x}", text) for i, text in enumerate(texts)]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_good_server_answers_in_order_and_concurrently(tmp_path: Path, start: Start) -> None:
    url, asked = start("good")
    summary = degrade_prompts(settings(url, concurrency=4), records(), tmp_path / "d.jsonl", seed=0)
    assert summary.written == 12 and summary.kinds == {"drop_object": 12}
    made = rows(tmp_path / "d.jsonl")
    assert [row["prompt"] for row in made] == [record.prompt for record in records()]
    assert made[3]["degraded_prompts"] == ["a red car and a dog number"]
    calls = asked()
    assert len(calls) == 12 and 2 <= max(call["running"] for call in calls) <= 4
    assert {call["path"] for call in calls} == {"/v1/chat/completions"}
    assert {call["format"] for call in calls} == {"json_schema"}
    assert {call["authorization"] for call in calls} == {None}


def test_failing_server_is_asked_again(tmp_path: Path, start: Start) -> None:
    url, asked = start("failing")
    summary = degrade_prompts(settings(url, attempts=10), records(), tmp_path / "d.jsonl", seed=0)
    assert summary.written == 12
    assert len(asked()) > 12


def test_rate_limit_is_waited_for(tmp_path: Path, start: Start) -> None:
    url, asked = start("limited")
    summary = degrade_prompts(settings(url, concurrency=1), records(count=3), tmp_path / "d.jsonl", seed=0)
    assert summary.written == 3
    times = [call["time"] for call in asked()]
    assert times[1] - times[0] >= 0.29 and times[2] - times[1] >= 0.29


def test_own_pace(tmp_path: Path, start: Start) -> None:
    url, asked = start("good")
    degrade_prompts(settings(url, requests_per_minute=600), records(count=5), tmp_path / "d.jsonl", seed=0)
    times = [call["time"] for call in asked()]
    assert times[-1] - times[0] >= 0.35


def test_a_server_that_stays_busy_stops_the_work_and_rerunning_goes_on(tmp_path: Path, start: Start) -> None:
    url, asked = start("always_limited")
    with pytest.raises(UserError, match="HTTP 429 after 4 tries.; what is done is kept, run the same command again"):
        degrade_prompts(settings(url, concurrency=2), records(), tmp_path / "d.jsonl", seed=0)
    assert not (tmp_path / "d.jsonl").exists() and len(asked()) <= 16
    url, _ = start("good")
    assert degrade_prompts(settings(url, concurrency=1), records(), tmp_path / "d.jsonl", seed=0).written == 12


def test_no_server(tmp_path: Path, start: Start) -> None:
    with pytest.raises(UserError, match="gives no answers .server: .*refused"):
        degrade_prompts(settings("http://127.0.0.1:9/v1"), records(), tmp_path / "d.jsonl", seed=0)


def test_garbage_is_counted_and_rules_step_in(tmp_path: Path, start: Start) -> None:
    url, _ = start("garbage")
    summary = degrade_prompts(settings(url, "rules", attempts=2), records(count=4), tmp_path / "d.jsonl", seed=0)
    assert summary.written == 4
    assert summary.dropped == {"made by rules instead: server: not a chat completion": 4}
    with pytest.raises(UserError, match="'server: not a chat completion': 4"):
        degrade_prompts(settings(url, attempts=2), records(count=4), tmp_path / "e.jsonl", seed=0)


def test_a_server_that_only_talks_garbage_does_not_eat_the_list(tmp_path: Path, start: Start) -> None:
    url, asked = start("garbage")
    with pytest.raises(UserError, match="run the same command again"):
        degrade_prompts(settings(url, attempts=1), records(count=200), tmp_path / "d.jsonl", seed=0)
    assert len(asked()) < 40


def test_one_slow_prompt_is_skipped_with_its_reason(tmp_path: Path, start: Start) -> None:
    url, _ = start("slow_for_one")
    summary = degrade_prompts(
        settings(url, timeout_s=0.5, attempts=2), records("a slow red car"), tmp_path / "d.jsonl", seed=0
    )
    assert summary.written == 12 and summary.skipped == {"server: no answer within 0.5 s": 1}


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


def test_a_dripping_answer_times_out_as_a_whole(tmp_path: Path, start: Start) -> None:
    url, _ = start("dripping")
    began = time.monotonic()
    with pytest.raises(UserError, match="no answer within 0.5 s': 1"):
        degrade_prompts(settings(url, timeout_s=0.5, attempts=1), records(count=1), tmp_path / "d.jsonl", seed=0)
    assert time.monotonic() - began < 3


def test_schema_is_given_up_where_it_is_not_known(tmp_path: Path, start: Start) -> None:
    url, asked = start("no_schema")
    summary = degrade_prompts(settings(url, concurrency=1, attempts=1), records(), tmp_path / "d.jsonl", seed=0)
    assert summary.written == 12
    assert [call["format"] for call in asked()] == ["json_schema", "json_object", *[None] * 12]


def test_a_refused_prompt_is_not_repeated(tmp_path: Path, start: Start) -> None:
    url, asked = start("refusing_one")
    summary = degrade_prompts(settings(url), records("a long prompt"), tmp_path / "d.jsonl", seed=0)
    assert summary.skipped == {"server: HTTP 400 (context length exceeded)": 1}
    assert len(asked()) == 13


def test_token_comes_from_the_environment_and_goes_nowhere_else(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_TOKEN", "geheim-1234")
    url, asked = start("good")
    degrade_prompts(settings(url, token_variable="MY_TOKEN"), records(), tmp_path / "run" / "d.jsonl", seed=0)
    assert {call["authorization"] for call in asked()} == {"Bearer geheim-1234"}
    url, _ = start("secretive")
    with pytest.raises(UserError, match=r"no model for Bearer \*\*\*") as caught:
        degrade_prompts(settings(url, token_variable="MY_TOKEN"), records(), tmp_path / "run" / "e.jsonl", seed=0)
    printed = capfd.readouterr()
    texts = [path.read_text(encoding="utf-8") for path in (tmp_path / "run").rglob("*.json*") if path.is_file()]
    assert all("geheim" not in text for text in [*texts, printed.out, printed.err, str(caught.value)])


def test_wrong_token_and_redirects_are_user_errors(tmp_path: Path, start: Start) -> None:
    url, asked = start("locked")
    with pytest.raises(UserError, match=r"refuses the token in \$OPENAI_API_KEY .HTTP 401"):
        degrade_prompts(settings(url, concurrency=2), records(), tmp_path / "a.jsonl", seed=0)
    assert len(asked()) <= 4
    url, _ = start("redirecting")
    with pytest.raises(UserError, match="HTTP 307"):
        degrade_prompts(settings(url), records(), tmp_path / "b.jsonl", seed=0)
    for bad in ("localhost:8000/v1", "http://me:secret@host/v1", "file:///etc/passwd"):
        with pytest.raises(UserError, match="must look like"):
            degrade_prompts(settings(bad), records(), tmp_path / "c.jsonl", seed=0)


def http_error(code: int, body: str) -> urllib.error.HTTPError:
    return urllib.error.HTTPError("http://x", code, "", http.client.HTTPMessage(), io.BytesIO(body.encode()))


def test_a_token_is_masked_before_a_message_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "ZQZQ-1234")
    client = ChatClient("http://127.0.0.1:9/v1", "tiny", "MY_TOKEN", 1.0)
    for length in (0, *range(70, 85), *range(185, 205)):
        for code in (400, 402, 404):
            assert "ZQ" not in str(client._http_error(http_error(code, "x" * length + "ZQZQ-1234"), {}))


def test_an_empty_account_stops_the_work_instead_of_skipping_prompts() -> None:
    client = ChatClient("http://127.0.0.1:9/v1", "tiny", "OPENAI_API_KEY", 1.0)
    error = client._http_error(http_error(402, "insufficient credits"), {})
    assert isinstance(error, UserError) and "HTTP 402: insufficient credits" in str(error)


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
