"""Join the pictures of all models on prompt and seed, and choose in a stated way which of them the page shows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..files import content_id
from .data import REFERENCE, RunData, finite
from .unit import Unit
from .verdict import main_policy

#: outcome -> how the page calls it, in the order that it shows them
OUTCOMES = {"gained": "gained", "lost": "lost", "kept": "still right", "failed": "still wrong"}
#: outcome names where scores are not just right or wrong
UNCHANGED = {"gained": "higher", "lost": "lower", "kept": "unchanged", "failed": "unchanged"}

#: a clause that failed -> the fault, where the clause's own name would read as its opposite
_FAULTS = {"nothing else": "something extra"}


@dataclass(frozen=True)
class Shot:
    """One model's picture of one prompt and seed. `image` is as the file says and not yet checked."""

    model: str
    image: str
    score: float
    failed: Sequence[str]
    fraction: float | None


@dataclass(frozen=True)
class Comparison:
    """The same prompt and seed drawn by the reference, the policy, and perhaps baselines."""

    key: str
    prompt: str
    category: str
    before: Shot
    after: Shot
    others: Sequence[Shot]
    outcome: str
    change: float
    """score after minus before, oriented so that more is better; then by share of true clauses"""


def _shot(row: dict[str, Any]) -> Shot | None:
    score = finite(row.get("score"))
    if score is None:
        return None
    detail = row.get("detail")
    detail = detail if isinstance(detail, dict) else {}
    failed = detail.get("failed")
    names = [_FAULTS.get(str(name), str(name)) for name in failed] if isinstance(failed, list) else []
    return Shot(str(row.get("model")), str(row.get("image") or ""), score, names, finite(detail.get("fraction")))


def _outcome(before: float, after: float, unit: Unit) -> str:
    if not unit.higher_is_better:
        before, after = -before, -after
    if after != before:
        return "gained" if after > before else "lost"
    return "failed" if unit.percent and after == 0 else "kept"


def compare(data: RunData, unit: Unit) -> list[Comparison]:
    """Every (prompt, seed) that both the reference and the policy have drawn, in the order of the scores file."""
    policy = main_policy(data)
    shots: dict[tuple[str, Any], dict[str, Shot]] = defaultdict(dict)
    about: dict[tuple[str, Any], tuple[str, str]] = {}
    for row in data.scores:
        key = (str(row.get("id")), str(row.get("index", 0)))
        if shot := _shot(row):
            shots[key][shot.model] = shot
            about[key] = (str(row.get("prompt") or ""), str(row.get("category") or ""))
    result = []
    for key, by_model in shots.items():
        before, after = by_model.get(REFERENCE), by_model.get(policy or "")
        if before is None or after is None:
            continue
        others = [by_model[name] for name in data.models if name in by_model and name not in (REFERENCE, policy)]
        sign = 1 if unit.higher_is_better else -1
        change = sign * (after.score - before.score) + 1e-3 * ((after.fraction or 0) - (before.fraction or 0))
        prompt, category = about[key]
        result.append(
            Comparison(
                "-".join(key),
                prompt,
                category,
                before,
                after,
                others,
                _outcome(before.score, after.score, unit),
                change,
            )
        )
    return result


def _lot(comparison: Comparison) -> str:
    """A place in an order that is random to the eye and the same every time."""
    return content_id("report", comparison.key)


def choose(comparisons: Sequence[Comparison], most: int) -> list[Comparison]:
    """At most `most` of them: from each category and outcome in true proportion, drawn by lot, at least one of each.

    Shares are rounded by largest remainder. The result is ordered by category, outcome, then lot.
    """
    strata: dict[tuple[str, str], list[Comparison]] = defaultdict(list)
    for comparison in comparisons:
        strata[comparison.category, comparison.outcome].append(comparison)
    if len(comparisons) > most:
        ideal = {name: len(members) * most / len(comparisons) for name, members in strata.items()}
        seats = {name: min(max(1, int(share)), len(strata[name])) for name, share in ideal.items()}
        by_remainder = sorted(ideal, key=lambda name: (ideal[name] - seats[name], name), reverse=True)
        while sum(seats.values()) < most:
            name = max(
                by_remainder, key=lambda name: ideal[name] - seats[name] if seats[name] < len(strata[name]) else -1e9
            )
            seats[name] += 1
        while sum(seats.values()) > most:
            name = min(by_remainder, key=lambda name: ideal[name] - seats[name] if seats[name] else 1e9)
            seats[name] -= 1
    else:
        seats = {name: len(members) for name, members in strata.items()}
    categories = list(dict.fromkeys(comparison.category for comparison in comparisons))
    order = list(OUTCOMES)
    names = sorted(strata, key=lambda name: (categories.index(name[0]), order.index(name[1])))
    return [comparison for name in names for comparison in sorted(strata[name], key=_lot)[: seats[name]]]


def one_each(comparisons: Sequence[Comparison], most: int = 7) -> list[Comparison]:
    """One by lot from each category (or `most` from all where there is one category): the strip beside the verdict."""
    by_category: dict[str, list[Comparison]] = defaultdict(list)
    for comparison in comparisons:
        by_category[comparison.category].append(comparison)
    if len(by_category) <= 1:
        return sorted(comparisons, key=_lot)[:most]
    return [min(members, key=_lot) for members in by_category.values()][:most]
