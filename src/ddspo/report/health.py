"""Is the training run healthy? Rules of thumb over the last fifth of the run, each told in plain words.

The preference loss is blind to drift that both sides share, so a falling loss proves nothing. What tells a sick run is
drift (how far the policy's predictions moved from the reference's) against contrast (mean d², how far apart the
reference's predictions on prompt and degraded prompt are: the distance that there is to learn from).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean
from typing import Any

from ..drift_bounds import MOSTLY_SETTLED, OVERSHOOT, SETTLED, UNMOVED, WRECKED
from .axes import number
from .data import finite

#: loss of a policy equal to its reference
LOG_2 = 0.6931471805599453
WRONG_WAY = 0.45
"""accuracy of the margin below which the policy goes the wrong way"""
_WORDS = {"good": "Fine", "watch": "Watch", "bad": "Sick", "unknown": "Unknown"}
_ORDER = ("unknown", "good", "watch", "bad")


@dataclass(frozen=True)
class Check:
    """One thing looked at: `status` is 'good', 'watch', 'bad' or 'unknown'."""

    name: str
    status: str
    text: str

    @property
    def word(self) -> str:
        """The status as the page prints it."""
        return _WORDS[self.status]


@dataclass(frozen=True)
class Health:
    """All checks and the worst of their statuses with a sentence about it."""

    status: str
    sentence: str
    checks: Sequence[Check]

    @property
    def word(self) -> str:
        """The status as the page prints it."""
        return _WORDS[self.status]


def values(rows: Sequence[dict[str, Any]], key: str) -> list[float]:
    """The finite numbers of one metric, in order."""
    return [number for row in rows if (number := finite(row.get(key))) is not None]


def late_mean(rows: Sequence[dict[str, Any]], key: str) -> float | None:
    """Mean of a metric over the last fifth of the run; None where it was not recorded."""
    known = values(rows[-max(1, len(rows) // 5) :], key)
    return fmean(known) if known else None


def _finite_check(rows: Sequence[dict[str, Any]]) -> Check:
    broken = [
        row["step"]
        for row in rows
        if any(isinstance(value, float) and not isfinite(value) for value in row.values())
        or any(key in row and row[key] is None for key in ("loss", "gradient_norm"))
    ]
    if broken:
        return Check(
            "Numbers",
            "bad",
            f"{len(broken)} steps hold NaN or infinity, first at step {broken[0]:g}: lower the learning rate.",
        )
    return Check("Numbers", "good", f"All {len(rows)} steps are finite.")


def _drift_ratio(rows: Sequence[dict[str, Any]]) -> tuple[float | None, str]:
    """(larger drift over contrast, 'contrast'); without contrast over the signal that automatic beta measured."""
    win, lose, contrast = (late_mean(rows, key) for key in ("win_drift", "lose_drift", "contrast"))
    if win is not None and lose is not None and contrast:
        return max(win, lose) / contrast, "contrast"
    return late_mean(rows, "drift_over_signal"), "signal that beta was set by"


def _drift_check(rows: Sequence[dict[str, Any]]) -> Check:
    name = "Drift over contrast"
    ratio, yardstick = _drift_ratio(rows)
    if ratio is None:
        return Check(
            name,
            "unknown",
            "This run records no contrast (forward-noise targets have none), so drift has no yardstick.",
        )
    told = f"Drift is {number(ratio, 2)} times the {yardstick}"
    if ratio > WRECKED:
        return Check(
            name,
            "bad",
            f"{told}: the policy moved much further than there is to learn. Expect damaged pictures; raise beta or "
            "lower the learning rate.",
        )
    if ratio > OVERSHOOT:
        return Check(
            name,
            "watch",
            f"{told}: the policy overshoots. Look for lost pictures; a larger beta or a lower rate holds it back.",
        )
    return Check(name, "good", f"{told}: the policy stayed within reach of what the pairs teach.")


def _sides_check(rows: Sequence[dict[str, Any]]) -> Check:
    name = "Win drift against lose drift"
    win, lose = late_mean(rows, "win_drift"), late_mean(rows, "lose_drift")
    if win is None or lose is None:
        return Check(name, "unknown", "Drift was not recorded.")
    if lose <= 0:
        return Check(name, "watch", "The policy has not moved at all.")
    share = win / lose
    told = f"The winning side drifts {number(share, 2)} times as far as the losing side"
    if share > 0.8:
        return Check(
            name,
            "watch",
            f"{told}: most of the movement is common to both, which the margin cannot see and nothing restrains.",
        )
    return Check(name, "good", f"{told}: the push goes mainly where it is meant to.")


def _saturation_check(rows: Sequence[dict[str, Any]]) -> Check:
    name = "Saturation"
    value = late_mean(rows, "saturation")
    if value is None:
        return Check(name, "unknown", "Saturation was not recorded.")
    told = f"σ(−margin) is {number(value, 2)} at the end (0.5 at the start)"
    if value < SETTLED:
        return Check(
            name,
            "bad",
            f"{told}: nearly all pairs are settled and teach nothing; the last steps were wasted or beta is too large.",
        )
    if value < MOSTLY_SETTLED:
        return Check(name, "watch", f"{told}: most pairs are settled; more steps will change little.")
    if value > UNMOVED:
        return Check(
            name,
            "watch",
            f"{told}: the pairs have hardly begun to act; train longer, or raise beta or the learning rate.",
        )
    return Check(name, "good", f"{told}: pairs have acted and still teach.")


def _accuracy_check(rows: Sequence[dict[str, Any]]) -> Check:
    name = "Accuracy of the margin"
    value = late_mean(rows, "accuracy")
    if value is None:
        return Check(name, "unknown", "Accuracy was not recorded.")
    told = f"{value * 100:.0f} % of pairs have a positive margin at the end"
    if value < WRONG_WAY:
        return Check(name, "bad", f"{told}: the policy goes the wrong way; check the targets.")
    if value < 0.55:
        return Check(name, "watch", f"{told}: hardly above chance.")
    return Check(name, "good", f"{told} (chance: 50 %).")


def _clipping_check(rows: Sequence[dict[str, Any]], max_norm: float | None) -> Check:
    name = "Gradient clipping"
    norms = values(rows, "gradient_norm")
    if not norms or max_norm is None:
        return Check(name, "unknown", "Gradient norm or its limit was not recorded.")
    share = sum(norm > max_norm for norm in norms) / len(norms)
    told = f"{share * 100:.0f} % of steps were clipped at {number(max_norm)}"
    if share > 0.9:
        return Check(
            name,
            "watch",
            f"{told}: step length is set by the clip, not by the loss. Normal for a large beta with AdamW.",
        )
    return Check(name, "good", f"{told}.")


def judge_health(rows: Sequence[dict[str, Any]], max_gradient_norm: float | None, told: Sequence[Check] = ()) -> Health:
    """Look at the main run's metrics; a run without preference metrics is judged on what it has.

    Args:
        rows: of metrics.jsonl.
        max_gradient_norm: where gradients are clipped.
        told: what the run said of itself (`told.own_words`).
    """
    checks = [
        *told,
        _finite_check(rows),
        _drift_check(rows),
        _sides_check(rows),
        _saturation_check(rows),
        _accuracy_check(rows),
        _clipping_check(rows, max_gradient_norm),
    ]
    status = max((check.status for check in checks), key=_ORDER.index)
    named = [check.name.lower() for check in checks if check.status == status]
    sentence = {
        "good": "The run looks healthy: drift stays within reach of the contrast and pairs still teach.",
        "watch": f"Nothing is broken, but keep an eye on {' and '.join(named)}.",
        "bad": f"The run looks sick: see {' and '.join(named)}.",
        "unknown": "Too little was recorded to judge the run.",
    }[status]
    return Health(status, sentence, checks)
