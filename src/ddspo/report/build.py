"""Run folder in, one self-contained page and one small JSON file out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..files import write_json, write_text
from .curves import bucket_charts, curves, drift_profiles, legend
from .data import POLICY, REFERENCE, RunData, finite, load_run
from .degradation import degradation
from .facts import cost_rows, flat, recipe_facts, set_metric_rows, tiles
from .forest import ForestRow, failure_bars, forest
from .health import Health, judge_health
from .pairing import OUTCOMES, UNCHANGED, Comparison, choose, compare, one_each
from .pictures import Picture, embed, inside
from .ruler import ruler
from .summary import summarize
from .told import own_words
from .unit import Unit, unit_of
from .verdict import Verdict, categories_of, confidence, judge_run, label

#: comparisons shown; more would make the page heavy without telling more
MOST_COMPARISONS = 120
#: bytes of pictures before base64, which adds a third
MOST_PICTURE_BYTES = 6_500_000


def asset(name: str) -> str:
    """The text of a file of this room."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _pictures(data: RunData, comparisons: Sequence[Comparison]) -> dict[str, Picture]:
    """The pictures of these comparisons by the name that the scores file gives them."""
    names = [shot.image for one in comparisons for shot in (one.before, one.after, *one.others)]
    paths = {name: path for name in dict.fromkeys(names) if (path := inside(data.scores_folder, name)) is not None}
    embedded = embed(list(paths.values()), MOST_PICTURE_BYTES)
    return {name: embedded[path] for name, path in paths.items() if path in embedded}


def _failures(data: RunData) -> list[tuple[str, list[float]]]:
    """(kind, share of each model's pictures), most frequent at the reference first; empty if no kinds are told."""
    counts: list[dict[str, float]] = []
    for model in data.models.values():
        failures = model.get("failures")
        counts.append({str(k): finite(v) or 0.0 for k, v in failures.items()} if isinstance(failures, dict) else {})
    if not counts or not counts[0]:
        return []
    totals = [sum(count.values()) or 1.0 for count in counts]
    kinds = {kind for count in counts for kind, value in count.items() if kind != "none" and value}
    table = [
        (label(kind), [count.get(kind, 0.0) / total for count, total in zip(counts, totals, strict=True)])
        for kind in kinds
    ]
    return sorted(table, key=lambda row: (-row[1][0], row[0]))


def _forests(rows: Sequence[ForestRow], unit: Unit) -> list[Markup]:
    """The chart twice, for wide and for narrow pages; the style sheet shows one."""
    title = "Difference between policy and base per category, with intervals"
    common: dict[str, Any] = {
        "tick": unit.tick,
        "show": unit.interval,
        "title": title,
        "higher_is_better": unit.higher_is_better,
    }
    return (
        [
            forest(rows, key="forest-wide", width=1030, label_px=150, note_px=160, **common),
            forest(rows, key="forest-narrow", width=340, label_px=92, note_px=0, **common),
        ]
        if rows
        else []
    )


def _ruler(data: RunData, unit: Unit, verdict: Verdict) -> dict[str, Any] | None:
    """The difference in large letters and its chart; the policy and the baselines, without categories."""
    whole = [replace(row, label=row.label.removesuffix(", all")) for row in verdict.forest if row.strong or row.tone]
    if not whole:
        return None
    first = whole[0].interval
    ends = "no interval: all prompts changed alike"
    if first.low is not None and first.high is not None:
        ends = f"{confidence(data)} interval {unit.change(first.low)} to {unit.change(first.high)}"
    whole[0] = replace(whole[0], label="policy")
    chart = ruler(whole, tick=unit.tick, show=unit.interval, higher_is_better=unit.higher_is_better)
    return {"value": unit.change(first.mean, unit=True), "ends": ends, "tone": verdict.tone, "chart": chart}


def _gallery(data: RunData, unit: Unit) -> dict[str, Any]:
    everything = [one for one in compare(data, unit) if inside(data.scores_folder, one.before.image)]
    chosen, strip = choose(everything, MOST_COMPARISONS), one_each(everything)
    outcomes = OUTCOMES if unit.percent else UNCHANGED
    count, shown = (Counter(one.outcome for one in some) for some in (everything, chosen))
    return {
        "all": everything,
        "chosen": chosen,
        "strip": strip,
        "pictures": _pictures(data, [*strip, *chosen]),
        "outcomes": outcomes,
        "tally": [(key, outcomes[key], count[key], shown[key]) for key in OUTCOMES if count[key]],
        "categories": list(dict.fromkeys(one.category for one in chosen if one.category)),
    }


def _health(data: RunData) -> Health:
    rows, limit = data.metrics[POLICY], finite(data.setting("training", "optimizer", "max_gradient_norm"))
    return judge_health(rows, limit, own_words(rows, data.betas.get(POLICY, {})))


def _context(data: RunData) -> dict[str, Any]:
    unit = unit_of(data)
    verdict = judge_run(data, unit)
    failures, charts = _failures(data), curves(data)
    models = [(name, data.tones[name]) for name in data.models]
    bars: dict[str, Any] = {"show": lambda share: f"{share * 100:.1f} %"}
    return {
        "run": data,
        "unit": unit,
        "verdict": verdict,
        "ruler": _ruler(data, unit, verdict),
        "tiles": tiles(data, unit, verdict.tone),
        "forests": _forests(verdict.forest, unit),
        "models": [("base" if name == REFERENCE else name, tone) for name, tone in models],
        "confidence": confidence(data),
        "gaps": any(row.interval.low is None for row in verdict.forest),
        "failures": failures,
        "failure_charts": [
            failure_bars(failures, models, key="failures-wide", width=1030, label_px=150, **bars),
            failure_bars(failures, models, key="failures-narrow", width=340, label_px=74, **bars),
        ]
        if failures
        else [],
        "gallery": _gallery(data, unit),
        "health": _health(data) if POLICY in data.metrics else None,
        "curves": charts,
        "sick": any(chart.sick for chart in charts),
        "buckets": bucket_charts(data),
        "drift_profiles": drift_profiles(data),
        "legend": legend(data),
        "costs": cost_rows(data),
        "degradation": degradation(data),
        "recipe": recipe_facts(data),
        "environment": flat(data.environment),
        "notes": [str(note) for note in data.evaluation.get("notes") or []],
        "set_metrics": set_metric_rows(data),
        "features": data.evaluation.get("features"),
        "has_categories": len(categories_of(data)) > 0,
        "label": label,
        "style": Markup(asset("report.css")),
        "script": Markup(asset("report.js")),
    }


def render(data: RunData) -> str:
    """The page as HTML text."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(asset("template.html.j2")).render(_context(data))


def build_report(run: Path) -> Path:
    """Write `report.html` (self-contained: pictures, charts and styles inside) and `summary.json` into a run folder.

    Reads files only. A run that is not finished gives a report of what there is, which says what is missing.

    Returns:
        The path of the page.

    Raises:
        UserError: `run` is not a run folder, or the files cannot be written.
    """
    data = load_run(run)
    page = run / "report.html"
    write_json(run / "summary.json", summarize(data))
    write_text(page, render(data))
    return page
