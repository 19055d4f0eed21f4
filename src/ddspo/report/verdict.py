"""What the numbers say, in one plain sentence with its interval, and the tables and charts of the comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .axes import MISSING, number
from .data import POLICY, REFERENCE, RunData, finite
from .forest import ForestRow, Interval
from .told import early_end
from .unit import NARROW, Unit, interval_of, telling


@dataclass(frozen=True)
class TableRow:
    """One category (or all): scores of every model, and the policy's difference."""

    label: str
    prompts: int | None
    values: Sequence[str]
    difference: str
    direction: int
    strong: bool = False


@dataclass(frozen=True)
class Verdict:
    """The comparison as the page shows it."""

    word: str
    tone: str
    sentence: str
    detail: str
    caveats: Sequence[str]
    against: Sequence[str] = field(default=())
    """how the policy stands to each baseline"""
    rows: Sequence[TableRow] = field(default=())
    forest: Sequence[ForestRow] = field(default=())


def main_policy(data: RunData) -> str | None:
    """The evaluated model that the report is about: 'policy', else the first that is not the reference."""
    names = [name for name in data.models if name != REFERENCE]
    return POLICY if POLICY in names else names[0] if names else None


def level(model: dict[str, Any], category: str | None = None) -> float | None:
    """A model's mean score, overall or in one category."""
    value = model.get("overall") if category is None else (model.get("categories") or {}).get(category)
    interval = interval_of(value)
    return interval.mean if interval else None


def categories_of(data: RunData) -> list[str]:
    """Categories in the order of the evaluation."""
    categories = data.evaluation.get("categories")
    return [str(name) for name in categories] if isinstance(categories, dict) else []


def label(category: str) -> str:
    """'two_objects' as people write it."""
    return category.replace("_", " ")


def oriented(interval: Interval, unit: Unit) -> int:
    """1 better, -1 worse, 0 not clear, whichever way the scorer points."""
    return interval.direction if unit.higher_is_better else -interval.direction


def judge_run(data: RunData, unit: Unit) -> Verdict:
    """Compose the verdict from evaluation.json."""
    name = main_policy(data)
    difference = telling(data.models[name].get("difference")) if name else None
    if name is None or difference is None:
        return Verdict(
            "Not evaluated",
            "unknown",
            "No verdict yet: the policy has not been compared with its base.",
            "What the run holds so far is shown below.",
            early_end(data.metrics.get(POLICY, [])),
        )
    direction = oriented(difference, unit)
    word, tone = {1: ("Better", "gain"), -1: ("Worse", "loss"), 0: ("No clear difference", "even")}[direction]
    return Verdict(
        word,
        tone,
        _sentence(data, name, unit, direction),
        _detail(data, name, unit, difference),
        _caveats(data, name, unit),
        _against(data, name, unit),
        _table(data, name, unit),
        _forest(data, name, unit),
    )


def _sentence(data: RunData, name: str, unit: Unit, direction: int) -> str:
    before, after = level(data.models.get(REFERENCE, {})), level(data.models[name])
    told = unit.value(before), unit.value(after)
    if unit.percent:
        verb = "match their prompt exactly" if unit.scorer == "tinyscenes" else f"pass {unit.scorer}"
        if direction == 0:
            return f"{told[0]} of pictures {verb} before and {told[1]} after: too close to call."
        subject = f"The share of pictures that {verb}"
    else:
        subject = f"The mean {unit.scorer} score"
        if direction == 0:
            return f"{subject} is {told[0]} before and {told[1]} after: too close to call."
    moved = "rose" if (after or 0) > (before or 0) else "fell"
    return f"{subject} {moved} from {told[0]} to {told[1]}."


def _detail(data: RunData, name: str, unit: Unit, difference: Interval) -> str:
    evaluation = data.evaluation
    text = f"Difference {unit.change(difference.mean, unit=True)}"
    if difference.low is not None and difference.high is not None:
        text += f", {confidence(data)} interval {unit.change(difference.low)} to {unit.change(difference.high)}"
    text += "."
    prompts, each = finite(evaluation.get("prompts")), finite(evaluation.get("images_per_prompt"))
    if prompts:
        kind = "held-out " if data.setting("evaluation", "prompts") in ("tinyscenes:heldout", "held_out") else ""
        pictures = "one picture" if each in (None, 1) else f"{each:g} pictures"
        text += f" Paired over {prompts:,.0f} {kind}prompts, {pictures} each, same seeds for both{_guidance(data)}."
    p_value = finite(data.models[name]["difference"].get("p_value"))
    if p_value is not None:
        text += f" Sign-flip test p = {number(p_value, 2)}." if p_value >= 1e-3 else " Sign-flip test p < 0.001."
    return text


def confidence(data: RunData) -> str:
    """'95 %'."""
    return f"{(finite(data.evaluation.get('confidence')) or 0.95) * 100:g}{NARROW}%"


def _guidance(data: RunData) -> str:
    """Under which guidance the pictures were drawn: a gain holds for that, not for every scale."""
    scale = finite(data.setting("evaluation", "sampling", "guidance_scale"))
    if scale is None:
        return ""
    return ", no guidance" if scale <= 1 else f", guidance {scale:g}"


def _caveats(data: RunData, name: str, unit: Unit) -> list[str]:
    notes = early_end(data.metrics.get(name, []))
    before, after = (finite(data.models.get(key, {}).get("frechet")) for key in (REFERENCE, name))
    if before and after and after > before * 1.1:
        notes.append(
            "The set of pictures moved away from real ones: "
            f"Fréchet distance rose from {number(before)} to {number(after)}."
        )
    differences = data.models[name].get("category_differences") or {}
    worse = [
        label(category)
        for category in categories_of(data)
        if (interval := telling(differences.get(category))) and oriented(interval, unit) < 0
    ]
    if worse:
        notes.append(f"Clearly worse in {', '.join(worse)}.")
    return notes


def _against(data: RunData, name: str, unit: Unit) -> list[str]:
    """'Against sft: −2.9 points [−5.8, −0.1], clearly behind.' for every other model that was trained."""
    words = {1: "clearly ahead", -1: "clearly behind", 0: "too close to call"}
    lines = []
    for other, value in (data.models[name].get("versus") or {}).items():
        if interval := telling(value):
            points = " points" if unit.percent else ""
            lines.append(f"Against {other}: {unit.interval(interval)}{points}, {words[oriented(interval, unit)]}.")
    return lines


def _table(data: RunData, name: str, unit: Unit) -> list[TableRow]:
    models, policy = data.models, data.models[name]
    differences = policy.get("category_differences") or {}
    counts = data.evaluation.get("categories") or {}
    rows = []
    for category in [None, *categories_of(data)]:
        interval = telling(policy.get("difference") if category is None else differences.get(category))
        prompts = finite(data.evaluation.get("prompts") if category is None else counts.get(category))
        rows.append(
            TableRow(
                "All prompts" if category is None else label(category),
                int(prompts) if prompts is not None else None,
                [unit.value(level(model, category)) for model in models.values()],
                unit.interval(interval) if interval else MISSING,
                oriented(interval, unit) if interval else 0,
                strong=category is None,
            )
        )
    return rows


def _forest(data: RunData, name: str, unit: Unit) -> list[ForestRow]:
    rows = []
    others = [model for model in data.models if model not in (REFERENCE, name)]
    for model in [name, *others]:
        interval = telling(data.models[model].get("difference"))
        if interval:
            tone = "" if model == name else data.tones[model]
            rows.append(
                ForestRow(
                    "All prompts" if model == name else f"{model}, all", interval, strong=model == name, tone=tone
                )
            )
    differences = data.models[name].get("category_differences") or {}
    for category in categories_of(data):
        if interval := telling(differences.get(category)):
            rows.append(ForestRow(label(category), interval))
    return rows
