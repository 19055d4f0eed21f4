"""Formats, ticks, verdict, health, selection: the parts of the report that compute."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddspo.report.axes import Scale, duration, linear_ticks, log_ticks, number, tick_label
from ddspo.report.charts import LineChart, Series, smooth, thin
from ddspo.report.data import RunData
from ddspo.report.forest import ForestRow, Interval
from ddspo.report.health import judge_health
from ddspo.report.pairing import Comparison, Shot, choose, compare, one_each
from ddspo.report.ruler import MOST_ROWS, ruler
from ddspo.report.unit import Unit, unit_of
from ddspo.report.verdict import judge_run
from helpers.fake_run import metric_rows


def test_ticks_are_round_inside_the_range_and_few() -> None:
    assert linear_ticks(0.07, 0.79) == [0.2, 0.4, 0.6]
    assert linear_ticks(-0.13, 0.36, 6) == [-0.1, 0.0, 0.1, 0.2, 0.3]
    for low, high, most in [(0, 1, 5), (-3.2, 17, 6), (1e-6, 9e-6, 4), (99, 101, 5), (0, 123456, 5)]:
        ticks = linear_ticks(low, high, most)
        assert 1 < len(ticks) <= most and min(ticks) >= low and max(ticks) <= high
    assert log_ticks(1e-6, 1e-1, 6) == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
    assert log_ticks(0.3, 3) == pytest.approx([0.5, 1, 2])


def test_scales_map_ends_and_hold_values_beyond_them() -> None:
    linear, log = Scale(0, 10, 100, 200), Scale(0.01, 100, 0, 40, log=True)
    assert [linear(0), linear(5), linear(10), linear(12), linear(-1)] == [100, 150, 200, 200, 100]
    assert [log(0.01), log(1), log(100)] == pytest.approx([0, 20, 40])


def test_numbers_read_well() -> None:
    assert [number(v) for v in (0.01234, 12.34, 12345.6, -0.5, 0, None, float("nan"))] == [
        "0.0123", "12.3", "12,346", "−0.500", "0", "n/a", "n/a",
    ]  # fmt: skip
    assert [duration(s) for s in (8.24, 245, 7800, None)] == ["8.2 s", "4 min 05 s", "2 h 10 min", "n/a"]
    assert [tick_label(1e-5, log=True), tick_label(0.1, log=True), tick_label(-2), tick_label(20000)] == [
        "10⁻⁵", "0.1", "−2", "20k",
    ]  # fmt: skip


def test_lines_are_thinned_and_smoothed_without_moving_their_mean() -> None:
    points = [(float(i), float(i % 2)) for i in range(1000)]
    assert len(thin(points, 100)) == 100
    assert sum(y for _, y in thin(points, 100)) / 100 == pytest.approx(0.5)
    assert smooth([(float(i), 2.0 * i) for i in range(40)]) == [(float(i), pytest.approx(2.0 * i)) for i in range(40)]


def test_units_write_shares_as_points_and_other_scores_as_numbers() -> None:
    share, plain = Unit(True, "tinyscenes"), Unit(False, "clip_score")
    assert share.interval(Interval(0.071, 0.03, 0.107)) == "+7.1 [+3.0, +10.7]"
    assert share.change(-0.0001) == "0.0"
    assert plain.change(-0.012) == "−0.0120"
    assert share.interval(Interval(0.1, None, None)) == "+10.0 [no interval]"


def _evaluated(mean: float, low: float, high: float, *, higher_is_better: bool = True) -> RunData:
    models = {
        "reference": {"overall": {"mean": 0.5, "low": 0.4, "high": 0.6}, "frechet": 3.0},
        "policy": {
            "overall": {"mean": 0.5 + mean, "low": 0.4, "high": 0.6},
            "difference": {"mean": mean, "low": low, "high": high, "p_value": 0.03},
            "frechet": 9.0,
        },
    }
    evaluation = {
        "scorer": "tinyscenes", "prompts": 400, "images_per_prompt": 1, "confidence": 0.9, "models": models,
        "scorers": {"tinyscenes": {"higher_is_better": higher_is_better}},
    }  # fmt: skip
    return RunData(Path("run"), evaluation=evaluation)


@pytest.mark.parametrize(
    ("ends", "word"),
    [((0.05, 0.01, 0.09), "Better"), ((-0.05, -0.09, -0.01), "Worse"), ((0.05, -0.01, 0.11), "No clear difference")],
)
def test_the_verdict_follows_the_interval_and_not_the_mean(ends: tuple[float, float, float], word: str) -> None:
    data = _evaluated(*ends)
    verdict = judge_run(data, unit_of(data))
    assert verdict.word == word
    assert "90\N{NARROW NO-BREAK SPACE}% interval" in verdict.detail and "400" in verdict.detail


def test_a_lower_score_is_better_where_the_scorer_says_so() -> None:
    data = _evaluated(-0.05, -0.09, -0.01, higher_is_better=False)
    assert judge_run(data, unit_of(data)).word == "Better"


def test_the_verdict_says_where_each_baseline_stands() -> None:
    data = _evaluated(0.05, 0.01, 0.09)
    data.models["policy"]["versus"] = {
        "sft": {"mean": -0.03, "low": -0.05, "high": -0.01, "p_value": 0.01},
        "dpo": {"mean": 0.01, "low": -0.02, "high": 0.04, "p_value": 0.6},
    }
    behind, even = judge_run(data, unit_of(data)).against
    assert behind.startswith("Against sft: −3.0 [−5.0, −1.0]") and behind.endswith("clearly behind.")
    assert even.endswith("too close to call.")


def test_a_gain_bought_with_worse_pictures_is_told() -> None:
    data = _evaluated(0.05, 0.01, 0.09)
    assert any("3.00 to 9.00" in caveat for caveat in judge_run(data, unit_of(data)).caveats)


def test_an_interval_that_only_touches_zero_is_no_difference() -> None:
    assert Interval(0.05, 0.0, 0.1).direction == 0
    assert Interval(0.05, None, 0.1).direction == 0


@pytest.mark.parametrize(("p_value", "word"), [(1.0, "No clear difference"), (0.002, "Better")])
def test_prompts_that_all_changed_alike_are_certain_only_when_there_are_enough(p_value: float, word: str) -> None:
    data = _evaluated(0.5, 0.5, 0.5)
    data.models["policy"]["difference"]["p_value"] = p_value
    assert judge_run(data, unit_of(data)).word == word


def test_one_prompt_that_got_worse_is_no_category_that_got_worse() -> None:
    data = _evaluated(0.05, 0.01, 0.09)
    data.evaluation["categories"] = {"color": 399, "complex": 1}
    data.models["policy"]["category_differences"] = {
        "color": {"mean": -0.2, "low": -0.3, "high": -0.1, "p_value": 0.01},
        "complex": {"mean": -1.0, "low": -1.0, "high": -1.0, "p_value": 1.0},
    }
    verdict = judge_run(data, unit_of(data))
    assert "Clearly worse in color." in verdict.caveats
    assert [row.difference for row in verdict.rows][-1] == "−100.0 [no interval]" and verdict.rows[-1].direction == 0


def test_the_ruler_shows_policy_and_baselines_on_one_scale() -> None:
    rows = [ForestRow(f"run <{i}>", Interval(0.01 * i, -0.02, 0.1), strong=i == 0) for i in range(MOST_ROWS + 2)]
    rows[1] = ForestRow("alone", Interval(0.05, None, None), tone="baseline-1")
    svg = ruler(rows, tick=str, show=lambda interval: f"{interval.mean:g}")
    assert svg.count('class="band ') == MOST_ROWS - 1 and svg.count("<circle") == MOST_ROWS
    assert "run &lt;0&gt;: 0;" in svg and "run <" not in svg and "alone: 0.05" in svg
    assert "better →" in svg and "better →" not in ruler(rows, tick=str, show=str, higher_is_better=False)


def test_the_sick_range_of_a_curve_is_shaded_only_where_it_is_in_view() -> None:
    def shaded(high: float) -> bool:
        line = Series("policy", "policy", [(1.0, 0.1), (2.0, high)])
        return 'class="sick"' in LineChart("k", "t", "", [line], log=True, sick=(10.0, float("inf"))).svg()

    assert shaded(30.0) and not shaded(3.0)


def test_health_tells_a_sick_run_from_a_healthy_one() -> None:
    healthy, sick = (judge_health(metric_rows(100, sick=sick), 1.0) for sick in (False, True))
    assert healthy.status == "good"
    assert sick.status == "bad" and "drift over contrast" in sick.sentence
    status = {check.name: check.status for check in sick.checks}
    assert status["Win drift against lose drift"] == "watch"


def test_health_sees_nan_and_a_run_that_has_hardly_begun() -> None:
    rows = metric_rows(50)
    rows[30]["loss"] = float("nan")
    assert judge_health(rows, 1.0).status == "bad"
    start = [{"step": 1, "loss": 0.693, "saturation": 0.5, "accuracy": 0.5}]
    status = {check.name: check.status for check in judge_health(start, None).checks}
    assert status["Saturation"] == "watch" and status["Drift over contrast"] == "unknown"
    assert judge_health(metric_rows(50, "denoising"), 1.0).status == "good"


def _comparison(number: int, category: str, outcome: str) -> Comparison:
    shot = Shot("policy", "x.png", 1.0, (), None)
    return Comparison(f"{number}-0", "prompt", category, shot, shot, (), outcome, 0.0)


def test_the_choice_keeps_true_proportions_and_every_kind() -> None:
    lots = [("color", "kept", 600), ("color", "gained", 200), ("spatial", "failed", 198), ("spatial", "lost", 2)]
    everything = [_comparison(i, c, o) for c, o, n in lots for i in range(n)]
    chosen = choose(everything, 100)
    count = {(c, o): sum((one.category, one.outcome) == (c, o) for one in chosen) for c, o, _ in lots}
    assert len(chosen) == 100
    assert count == {("color", "kept"): 60, ("color", "gained"): 20, ("spatial", "failed"): 19, ("spatial", "lost"): 1}
    assert choose(everything[::-1], 100) and {one.key for one in choose(everything, 100)} == {one.key for one in chosen}
    assert len(choose(everything, 3)) == 3
    assert len(choose(everything[:50], 100)) == 50
    assert [one.category for one in one_each(everything)] == ["color", "spatial"]


def test_comparisons_join_on_prompt_and_seed_and_name_the_outcome() -> None:
    data = _evaluated(0.05, 0.01, 0.09)
    scores = {("reference", "a"): 0.0, ("policy", "a"): 1.0, ("reference", "b"): 1.0, ("policy", "b"): 0.0}
    scores |= {("reference", "c"): 0.0, ("policy", "c"): 0.0, ("reference", "d"): 1.0}
    data.scores = [
        {"model": m, "id": i, "index": 0, "prompt": i, "category": None, "score": s, "detail": {"failed": ["color 1"]}}
        for (m, i), s in scores.items()
    ]
    found = compare(data, unit_of(data))
    assert [(one.prompt, one.outcome, one.change) for one in found] == [
        ("a", "gained", 1.0), ("b", "lost", -1.0), ("c", "failed", 0.0),
    ]  # fmt: skip
    assert found[0].before.failed == ["color 1"]
