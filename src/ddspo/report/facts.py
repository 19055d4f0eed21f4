"""Rows of the smaller tables: key figures, costs, recipe, environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .axes import duration, number
from .data import REFERENCE, RunData, finite
from .unit import Unit, interval_of
from .verdict import main_policy


@dataclass(frozen=True)
class Tile:
    """One key figure."""

    label: str
    value: str
    note: str
    tone: str = ""


@dataclass(frozen=True)
class CostRow:
    """One stage of the ledger; shares are of the whole run, 0 to 1."""

    stage: str
    seconds: str
    seconds_share: float
    evaluations: str
    evaluations_share: float


def _level_tile(data: RunData, name: str, heading: str, unit: Unit, tone: str = "") -> Tile | None:
    interval = interval_of(data.models.get(name, {}).get("overall"))
    if interval is None:
        return None
    ends = f"{unit.value(interval.low)} to {unit.value(interval.high)}" if interval.low is not None else "no interval"
    return Tile(heading, unit.value(interval.mean), ends, tone)


def _win_tile(data: RunData, name: str) -> Tile | None:
    rate = data.models[name].get("win_rate") or {}
    interval = interval_of(rate)
    if interval is None:
        return None
    wins, ties, losses = (finite(rate.get(key)) for key in ("wins", "ties", "losses"))
    counts = None not in (wins, ties, losses)
    note = f"{wins:g} gained, {losses:g} lost, {ties:g} same" if counts else "ties count one half"
    return Tile("Paired win rate", f"{interval.mean * 100:.1f} %", note)


def _frechet_tile(data: RunData, name: str) -> Tile | None:
    before, after = (finite(data.models.get(model, {}).get("frechet")) for model in (REFERENCE, name))
    if before is None or after is None:
        return None
    floor = finite(data.evaluation.get("frechet_floor"))
    note = "lower is better" + (f"; real pictures {number(floor, 2)}" if floor is not None else "")
    return Tile("Fréchet distance", f"{number(before)} → {number(after)}", note)


def set_metric_rows(data: RunData) -> list[tuple[str, list[str], str]]:
    """(name, value per model, value of real pictures) for scores of whole sets; those that some model has."""
    rows = []
    for key, name, real in (
        ("frechet", "Fréchet distance (lower is better)", "frechet_floor"),
        ("inception_score", "Inception score (higher is better)", "inception_score_real"),
    ):
        values = [finite(model.get(key)) for model in data.models.values()]
        if any(value is not None for value in values):
            rows.append((name, [number(value) for value in values], number(finite(data.evaluation.get(real)))))
    return rows


def tiles(data: RunData, unit: Unit, tone: str) -> list[Tile]:
    """The key figures under the verdict; only those that are known."""
    name = main_policy(data)
    result: list[Tile | None] = []
    if name:
        result += [_level_tile(data, REFERENCE, "Base", unit), _level_tile(data, name, "Policy", unit, tone)]
        result += [_win_tile(data, name), _frechet_tile(data, name)]
    seconds, evaluations = totals(data)
    if seconds:
        result.append(Tile("Cost", duration(seconds), f"{number(evaluations)} network evaluations"))
    return [tile for tile in result if tile]


def totals(data: RunData) -> tuple[float, float]:
    """Seconds and network evaluations of all stages together."""
    return sum(cost.seconds or 0.0 for cost in data.costs), sum(cost.network_evaluations or 0.0 for cost in data.costs)


def cost_rows(data: RunData) -> list[CostRow]:
    """The ledger, one row per stage and one for all."""
    seconds, evaluations = totals(data)
    rows = [
        CostRow(
            cost.name,
            duration(cost.seconds),
            (cost.seconds or 0.0) / seconds if seconds else 0.0,
            number(cost.network_evaluations),
            (cost.network_evaluations or 0.0) / evaluations if evaluations else 0.0,
        )
        for cost in data.costs
    ]
    if len(rows) > 1:
        rows.append(CostRow("all stages", duration(seconds), 1.0, number(evaluations), 1.0))
    return rows


_RECIPE_FACTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Base model", ("model", "base")),
    ("Target", ("target", "source")),
    ("Objective", ("objective", "name")),
    ("Beta", ("objective", "beta")),
    ("Trained", ("training", "parameters")),
    ("Steps", ("training", "max_steps")),
    ("Pairs per step", ("training", "global_batch_pairs")),
    ("Learning rate", ("training", "optimizer", "learning_rate")),
    ("Pairs", ("pairs", "count")),
    ("Degradation", ("degradation", "method")),
    ("Pairs: sampling steps", ("pairs", "sampling", "steps")),
    ("Pairs: guidance scale", ("pairs", "sampling", "guidance_scale")),
    ("Evaluated on", ("evaluation", "prompts")),
    ("Evaluation: sampling steps", ("evaluation", "sampling", "steps")),
    ("Evaluation: guidance scale", ("evaluation", "sampling", "guidance_scale")),
    ("Seed", ("seed",)),
)


def recipe_facts(data: RunData) -> list[tuple[str, str]]:
    """The settings that people ask for first; those that the recipe states."""
    facts = []
    for name, keys in _RECIPE_FACTS:
        value = data.setting(*keys)
        if value is not None and not isinstance(value, dict | list):
            facts.append((name, f"{value:g}" if isinstance(value, float) else str(value)))
    return facts


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested JSON as ('a.b', 'text') rows."""
    if isinstance(value, dict):
        return [row for key, inner in value.items() for row in flat(inner, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(value, list):
        return [(prefix, ", ".join(str(item) for item in value))]
    return [(prefix, "none" if value is None else str(value))]
