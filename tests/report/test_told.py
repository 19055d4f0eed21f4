"""The report repeats what a run said of itself: beta and why, warnings, an early end; and drift by timestep."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddspo.files import read_jsonl, write_json, write_jsonl
from ddspo.report import build_report
from ddspo.report.curves import drift_profiles
from ddspo.report.data import load_run
from ddspo.report.health import judge_health
from ddspo.report.told import early_end, own_words
from ddspo.report.unit import unit_of
from ddspo.report.verdict import judge_run
from helpers.fake_run import make_run, metric_rows

REASON = "beta 216 = strength 4 / 0.0185, where 0.0185 is the signal."
STOPPED = "stopped early after step 60 of 80: drift reached 4.1 times the signal"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with automatic beta that was warned, whose drift came to cost, and that stopped early."""
    run = make_run(tmp_path / "run", per_category=1, baselines=False)
    file = run / "policy_run" / "metrics.jsonl"
    rows = list(read_jsonl(file))
    for row in rows:
        row["beta"], row["drift_price"] = 216.0, 0.0 if row["step"] < 40 else 0.12
        row["lose_drift_by_timestep"] = [None, 4.0, 1.0, *[2.0] * 7]
        row["win_drift_by_timestep"] = [None, 0.5, *[0.2] * 8]
        row["contrast_by_timestep"] = [None, 2.0, 4.0, *[2.0] * 7]
    rows[29]["warning"] = "step 30: the loss is still at log 2"
    rows[-1]["stopped"] = STOPPED
    write_jsonl(file, rows)
    write_json(run / "policy_run" / "beta.json", {"value": 216.0, "reason": REASON})
    return run


def test_the_page_says_how_beta_was_chosen_and_that_the_run_ended_early(run: Path) -> None:
    page = build_report(run).read_text(encoding="utf-8")
    assert REASON in page and "Drift passed its bound at step 40; its price at the end is 0.12." in page
    assert "the loss is still at log 2" in page
    assert page.count(STOPPED) >= 2  # among the checks, and beside the verdict
    assert "Drift by timestep" in page
    data = load_run(run)
    assert any(STOPPED in note for note in judge_run(data, unit_of(data)).caveats)


def test_a_run_that_was_not_evaluated_says_so_too(run: Path) -> None:
    (run / "scores" / "evaluation.json").unlink()
    data = load_run(run)
    assert any(STOPPED in note for note in judge_run(data, unit_of(data)).caveats)


def test_words_of_the_run_enter_its_health() -> None:
    rows = metric_rows(50)
    assert judge_health(rows, 1.0).status == "good"
    rows[-1]["stopped"] = STOPPED
    assert early_end(rows) == [f"Training {STOPPED}. The policy is the one of that step."]
    assert judge_health(rows, 1.0, own_words(rows, {})).status == "bad"
    assert early_end([]) == early_end(metric_rows(3)) == []


def test_a_run_without_contrast_is_measured_by_the_signal_that_set_its_beta() -> None:
    rows = metric_rows(50, "forward_noise")
    for row in rows:
        row["drift_over_signal"] = 12.0
    check = next(check for check in judge_health(rows, 1.0).checks if check.name == "Drift over contrast")
    assert check.status == "bad" and "12 times the signal that beta was set by" in check.text


def test_profiles_divide_drift_by_the_contrast_of_the_same_tenth(run: Path) -> None:
    lose, win = drift_profiles(load_run(run))
    assert lose.series[0].points[:3] == [(15.0, pytest.approx(2.0)), (25.0, pytest.approx(0.25)), (35.0, 1.0)]
    assert win.series[0].points[0] == (15.0, pytest.approx(0.25))
    assert len(lose.series[0].points) == 9
