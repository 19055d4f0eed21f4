"""Which curves the report draws, and the line under each that says how to read it."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

from ..drift_bounds import FULL_STEP, SETTLED, WRECKED
from .charts import LineChart, Series
from .data import RunData, finite
from .health import LOG_2, WRONG_WAY

#: key, title, how to read it, logarithmic, guides
_CURVES: tuple[tuple[str, str, str, bool, tuple[tuple[float, str], ...]], ...] = (
    (
        "loss",
        "Loss",
        "Starts at log 2 when policy = reference. Falling is expected and proves little: it is blind to shared drift.",
        False,
        ((LOG_2, "log 2"),),
    ),
    (
        "denoising_loss",
        "Denoising loss",
        "Of runs that fine-tune on winners: no pairs, so it starts elsewhere and falls little.",
        False,
        (),
    ),
    (
        "margin",
        "Margin",
        "Should rise from 0 and level off at a few units. A runaway margin means beta or rate is too large.",
        False,
        ((0.0, ""),),
    ),
    (
        "accuracy",
        "Accuracy",
        "Share of pairs with a positive margin. A healthy run settles well above one half; shaded is the wrong way.",
        False,
        ((0.5, "chance"),),
    ),
    (
        "win_drift",
        "Win drift",
        "Squared distance from the reference on winning pictures. Lower is better: this side is the anchor.",
        True,
        (),
    ),
    (
        "lose_drift",
        "Lose drift",
        "The same on losing pictures. It should stand clearly above win drift; that gap is what is learned.",
        True,
        (),
    ),
    (
        "drift_over_contrast",
        "Drift over contrast",
        "Larger drift divided by contrast. Below 1 is calm; in the shaded range pictures suffer.",
        True,
        ((FULL_STEP, "contrast"), (WRECKED, "sick from here")),
    ),
    (
        "drift_price",
        "Price on drift",
        "Of automatic beta: above 0 where drift exceeds its bound. Should settle; rising to the end means overshoot.",
        False,
        (),
    ),
    (
        "contrast",
        "Contrast",
        "Mean d²: how far apart prompt and degraded prompt are for the reference. Flat; it depends on pairs only.",
        False,
        (),
    ),
    (
        "saturation",
        "Saturation",
        "Mean σ(−margin), the weight a pair still has. Starts at 0.5; in the shaded range pairs teach nothing more.",
        False,
        ((0.5, "start"),),
    ),
    (
        "gradient_norm",
        "Gradient norm",
        "Before clipping. Spikes that grow are an early sign of trouble; steady noise is normal.",
        True,
        (),
    ),
    ("learning_rate", "Learning rate", "As applied, after warm-up and schedule.", False, ()),
)
_FIXED_RANGES = {"accuracy": (0.0, 1.0), "saturation": (0.0, 0.56)}
#: where a run is sick, shaded
_SICK = {"drift_over_contrast": (WRECKED, inf), "saturation": (0.0, SETTLED), "accuracy": (0.0, WRONG_WAY)}
BUCKETS = 10


def _series(data: RunData, rows_of: dict[str, list[tuple[float, float]]]) -> list[Series]:
    tones = data.tones
    return [Series(name, tones[name], points) for name, points in rows_of.items() if points]


def _value(row: dict[str, Any], key: str) -> float | None:
    if key in ("loss", "denoising_loss"):
        # Rows with a margin hold the preference loss; the two are not on one scale.
        return finite(row.get("loss")) if (finite(row.get("margin")) is not None) == (key == "loss") else None
    if key != "drift_over_contrast":
        return finite(row.get(key))
    win, lose, contrast = (finite(row.get(name)) for name in ("win_drift", "lose_drift", "contrast"))
    known = win is not None and lose is not None and contrast
    return max(win, lose) / contrast if known else finite(row.get("drift_over_signal"))  # type: ignore[type-var,operator]


def _points(rows: Sequence[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(float(row["step"]), value) for row in rows if (value := _value(row, key)) is not None]


def curves(data: RunData) -> list[LineChart]:
    """One chart per recorded metric, policy and baselines together; metrics that nobody recorded are left out."""
    charts = []
    for key, title, reading, log, guides in _CURVES:
        series = _series(data, {name: _points(rows, key) for name, rows in data.metrics.items()})
        if series:
            charts.append(
                LineChart(
                    f"curve-{key}",
                    title,
                    reading,
                    series,
                    log,
                    guides,
                    y_range=_FIXED_RANGES.get(key),
                    sick=_SICK.get(key),
                    noisy=key != "learning_rate",
                )
            )
    return charts


def _bucket(row: dict[str, Any], index: int, key: str = "margin_by_timestep") -> float | None:
    buckets = row.get(key)
    return finite(buckets[index]) if isinstance(buckets, list) and index < len(buckets) else None


def bucket_charts(data: RunData) -> list[LineChart]:
    """Margin by tenth of the schedule as small multiples on one common scale; empty when nobody recorded it."""
    points = [
        {
            name: [(float(row["step"]), value) for row in rows if (value := _bucket(row, index)) is not None]
            for name, rows in data.metrics.items()
        }
        for index in range(BUCKETS)
    ]
    known = sorted(y for by_model in points for line in by_model.values() for _, y in line)
    if not known:
        return []
    # Single steps are noisy in a tenth of a batch: the common scale leaves out the outermost hundredth.
    cut = len(known) // 100
    low, high = min(0.0, known[cut]), max(0.0, known[-1 - cut])
    air = (high - low) * 0.06 or 1.0
    return [
        LineChart(
            f"bucket-{index}",
            f"Timesteps {index * 10}–{index * 10 + 10} %",
            "",
            _series(data, by_model),
            guides=((0.0, ""),),
            width=220,
            height=130,
            compact=True,
            y_range=(low - air, high + air),
        )
        for index, by_model in enumerate(points)
    ]


def drift_profiles(data: RunData) -> list[LineChart]:
    """Drift over contrast in each tenth of the schedule, last fifth of the run, either side; empty if not recorded."""
    charts = []
    for side, title in (("lose", "Losing side"), ("win", "Winning side")):
        lines = {name: _profile(rows, f"{side}_drift_by_timestep") for name, rows in data.metrics.items()}
        if series := _series(data, lines):
            charts.append(
                LineChart(
                    f"profile-{side}",
                    title,
                    "Drift over contrast against the share of the noise schedule in percent, clean on the left.",
                    series,
                    log=True,
                    guides=((1.0, "contrast"),),
                    noisy=False,
                )
            )
    return charts


def _profile(rows: Sequence[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """(middle of the tenth in percent, mean drift / mean contrast there); tenths that were seen."""
    late, points = rows[-max(1, len(rows) // 5) :], []
    for index in range(BUCKETS):
        seen = [
            (drift, contrast)
            for row in late
            if (drift := _bucket(row, index, key)) is not None
            and (contrast := _bucket(row, index, "contrast_by_timestep")) is not None
        ]
        total = sum(contrast for _, contrast in seen)
        if total > 0:
            points.append((100 * (index + 0.5) / BUCKETS, sum(drift for drift, _ in seen) / total))
    return points


def legend(data: RunData) -> list[tuple[str, str]]:
    """(name, tone) of every model that has curves."""
    return [(name, data.tones[name]) for name in data.metrics]
