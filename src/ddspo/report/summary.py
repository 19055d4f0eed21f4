"""The numbers of the report for machines: summary.json."""

from __future__ import annotations

from typing import Any

from .data import REFERENCE, RunData, finite
from .unit import interval_of
from .verdict import categories_of, level, main_policy


def _levels(data: RunData, name: str) -> dict[str, float | None]:
    """{"overall": score, CATEGORY: score, ...}."""
    model = data.models[name]
    return {"overall": level(model)} | {category: level(model, category) for category in categories_of(data)}


def _difference(data: RunData, name: str) -> dict[str, float | None] | None:
    interval = interval_of(data.models[name].get("difference"))
    return {"mean": interval.mean, "low": interval.low, "high": interval.high} if interval else None


def summarize(data: RunData) -> dict[str, Any]:
    """Scores of base and policy, their difference with its interval, Fréchet distances, cost per stage, baselines.

    Parts that the run does not hold yet are null; "missing" says why.
    """
    policy = main_policy(data)
    has_base = REFERENCE in data.models
    others = [name for name in data.models if name not in (REFERENCE, policy)]
    return {
        "base": _levels(data, REFERENCE) if has_base else None,
        "policy": _levels(data, policy) if policy else None,
        "difference": _difference(data, policy) if policy else None,
        "frechet": {
            "base": finite(data.models.get(REFERENCE, {}).get("frechet")),
            "policy": finite(data.models.get(policy or "", {}).get("frechet")),
        },
        "stages": {
            cost.name: {"seconds": cost.seconds, "network_evaluations": cost.network_evaluations} for cost in data.costs
        },
        "baselines": {
            name: _levels(data, name)
            | {"difference": _difference(data, name), "frechet": finite(data.models[name].get("frechet"))}
            for name in others
        },
        "missing": data.missing,
    }
