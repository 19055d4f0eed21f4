"""How scores, differences and intervals are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .axes import MISSING, number
from .data import RunData, finite
from .forest import Interval

_MINUS = "\N{MINUS SIGN}"
NARROW = "\N{NARROW NO-BREAK SPACE}"


@dataclass(frozen=True)
class Unit:
    """How scores are written: shares as percent and percentage points, others as plain numbers."""

    percent: bool
    scorer: str
    higher_is_better: bool = True

    def value(self, value: float | None) -> str:
        """One score: '48.9 %' or '0.271'."""
        if value is None:
            return MISSING
        return f"{value * 100:.1f}{NARROW}%" if self.percent else number(value)

    def change(self, value: float | None, unit: bool = False) -> str:
        """A difference with its sign: '+7.7' (points) or '+0.012'."""
        if value is None:
            return MISSING
        text = f"{abs(value) * 100:.1f}" if self.percent else number(abs(value))
        sign = "" if not text.strip("0.") else "+" if value > 0 else _MINUS
        return f"{sign}{text}" + (" points" if unit and self.percent else "")

    def interval(self, interval: Interval) -> str:
        """'+7.7 [+5.1, +10.3]'."""
        if interval.low is None or interval.high is None:
            return f"{self.change(interval.mean)} [no interval]"
        return f"{self.change(interval.mean)} [{self.change(interval.low)}, {self.change(interval.high)}]"

    def tick(self, value: float) -> str:
        """A difference on an axis."""
        text = f"{abs(value) * 100:g}" if self.percent else f"{abs(value):g}"
        return text if value == 0 else f"{'+' if value > 0 else _MINUS}{text}"


def unit_of(data: RunData) -> Unit:
    """Percent when every picture scores 0 or 1, as exact scorers do."""
    scorer = str(data.evaluation.get("scorer") or "score")
    scores = {finite(row.get("score")) for row in data.scores}
    percent = scores <= {0.0, 1.0} if scores else scorer == "tinyscenes"
    scorers = data.evaluation.get("scorers")
    about = scorers.get(scorer) if isinstance(scorers, dict) else None
    higher = about.get("higher_is_better", True) if isinstance(about, dict) else True
    return Unit(percent, scorer, bool(higher))


def interval_of(value: Any) -> Interval | None:
    """{"mean", "low", "high"} as an interval; None without a mean."""
    if not isinstance(value, dict) or finite(value.get("mean")) is None:
        return None
    return Interval(float(value["mean"]), finite(value.get("low")), finite(value.get("high")))


def telling(value: Any) -> Interval | None:
    """As `interval_of`, but without ends where these have no width and the test finds nothing.

    Prompts that all changed alike leave a bootstrap nothing to vary. Over one prompt, or a few, that is no certainty.
    """
    interval = interval_of(value)
    if interval is None or interval.low != interval.high or (finite(value.get("p_value")) or 0.0) < 0.05:
        return interval
    return Interval(interval.mean, None, None)
