"""Degrading with a server: answers in order, at its pace, and what is done about those that do not come."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ddspo.errors import UserError
from ddspo.prompts.degrade import degrade_prompts
from helpers.server_cases import Start, records, rows, settings


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
