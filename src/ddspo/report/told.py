"""What a training run said of itself: how beta was chosen, what drift came to cost, warnings, an early end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .axes import number
from .data import finite
from .health import Check


def early_end(rows: Sequence[dict[str, Any]]) -> list[str]:
    """One sentence on why the run ended before its last step, in its own words, or none."""
    told = rows[-1].get("stopped") if rows else None
    return [f"Training {told}. The policy is the one of that step."] if told else []


def own_words(rows: Sequence[dict[str, Any]], beta: dict[str, Any]) -> list[Check]:
    """Checks from beta.json (`beta`, {} for a fixed beta) and from the words in metrics.jsonl."""
    checks = []
    if isinstance(beta.get("reason"), str):
        checks.append(Check("Automatic beta", "good", beta["reason"] + _course(rows)))
    for row in rows:
        if row.get("warning"):
            checks.append(Check("Warning of the run", "watch", f"{str(row['warning']).capitalize()}."))
    return checks + [Check("Early end", "bad", sentence) for sentence in early_end(rows)]


def _course(rows: Sequence[dict[str, Any]]) -> str:
    prices = [(row["step"], value) for row in rows if (value := finite(row.get("drift_price"))) is not None]
    charged = [step for step, value in prices if value > 0]
    if not charged:
        return " Drift stayed within its bound." if prices else ""
    return f" Drift passed its bound at step {charged[0]:g}; its price at the end is {number(prices[-1][1], 2)}."
