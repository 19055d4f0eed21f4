"""Line charts as inline SVG. Colors come from the page's style sheet, so one chart serves light, dark and paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from markupsafe import Markup, escape

from .axes import Scale, finite_range, linear_ticks, log_ticks, number, tick_label

_MOST_POINTS = 240
_SMOOTH_FROM = 24


@dataclass(frozen=True)
class Series:
    """One line: `tone` is the style class that names its color ('policy', 'baseline-1', ...)."""

    name: str
    tone: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class LineChart:
    """What one small chart shows and how to read it."""

    key: str
    title: str
    reading: str
    series: Sequence[Series]
    log: bool = False
    guides: Sequence[tuple[float, str]] = field(default=())
    """horizontal lines with a label, such as log 2"""
    width: int = 340
    height: int = 190
    compact: bool = False
    """a panel of small multiples: no last values, fewer ticks"""
    y_range: tuple[float, float] | None = None
    sick: tuple[float, float] | None = None
    """a range of values that only a sick run has"""
    noisy: bool = True
    """draw the trend over a pale raw line; otherwise the raw line alone"""

    def svg(self) -> Markup:
        """The chart as an accessible SVG element."""
        return _svg(self)


def thin(points: Sequence[tuple[float, float]], most: int = _MOST_POINTS) -> list[tuple[float, float]]:
    """At most `most` points: means of neighbors, so that long runs stay light and no stretch is left out."""
    if len(points) <= most:
        return list(points)
    edges = [round(index * len(points) / most) for index in range(most + 1)]
    groups = [points[start:end] for start, end in zip(edges, edges[1:], strict=False)]
    return [(fmean(x for x, _ in group), fmean(y for _, y in group)) for group in groups]


def smooth(points: Sequence[tuple[float, float]], log: bool = False) -> list[tuple[float, float]]:
    """Centered moving mean over an eighth of the run (geometric on a logarithmic axis); the trend in a noisy line."""
    half = max(1, len(points) // 16)
    result = []
    for index, (x, _) in enumerate(points):
        reach = min(half, index, len(points) - 1 - index)
        window = [y for _, y in points[index - reach : index + reach + 1]]
        mean = math.exp(fmean(math.log(y) for y in window)) if log else fmean(window)
        result.append((x, mean))
    return result


def path(points: Sequence[tuple[float, float]], x: Scale, y: Scale) -> str:
    """The 'd' attribute of a polyline."""
    return "M" + "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in points)


def _usable(points: Sequence[tuple[float, float]], log: bool) -> list[tuple[float, float]]:
    return [(a, b) for a, b in points if math.isfinite(b) and (b > 0 or not log)]


def _describe(chart: LineChart) -> str:
    parts = []
    for series in chart.series:
        points = _usable(series.points, chart.log)
        if points:
            parts.append(f"{series.name} goes from {number(points[0][1])} to {number(points[-1][1])}")
    return "; ".join(parts) + "." if parts else "No values."


def _shade(sick: tuple[float, float], x: Scale, y: Scale) -> list[str]:
    low, high = max(sick[0], y.low), min(sick[1], y.high)
    if low >= high:
        return []
    return [
        f'<rect class="sick" x="{x.start:.1f}" y="{y(high):.1f}" width="{x.end - x.start:.1f}" '
        f'height="{y(low) - y(high):.1f}"/>'
    ]


def _frame(chart: LineChart, x: Scale, y: Scale) -> list[str]:
    ticks = 4 if chart.compact else 6
    lines = _shade(chart.sick, x, y) if chart.sick else []
    for value in log_ticks(y.low, y.high, ticks) if chart.log else linear_ticks(y.low, y.high, ticks):
        at = y(value)
        lines.append(f'<line class="grid" x1="{x.start:.1f}" x2="{x.end:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>')
        label = tick_label(value, chart.log)
        lines.append(f'<text class="tick" x="{x.start - 6:.1f}" y="{at + 3.5:.1f}" text-anchor="end">{label}</text>')
    for value in linear_ticks(x.low, x.high, ticks - 1):
        if value == int(value):
            label = tick_label(value)
            lines.append(
                f'<text class="tick" x="{x(value):.1f}" y="{y.start + 15:.1f}" text-anchor="middle">{label}</text>'
            )
    for value, label in chart.guides:
        if y.low <= value <= y.high:
            at = y(value)
            lines.append(f'<line class="guide" x1="{x.start:.1f}" x2="{x.end:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>')
            if label:
                lines.append(
                    f'<text class="guide-label" x="{x.end - 2:.1f}" y="{at - 4:.1f}" text-anchor="end">'
                    f"{escape(label)}</text>"
                )
    return lines


def _line(series: Series, log: bool, noisy: bool, x: Scale, y: Scale) -> list[str]:
    points = thin(_usable(series.points, log))
    if not points:
        return []
    tone = escape(series.tone)
    if len(points) == 1:
        return [f'<circle class="dot {tone}" cx="{x(points[0][0]):.1f}" cy="{y(points[0][1]):.1f}" r="3"/>']
    if len(points) < _SMOOTH_FROM or not noisy:
        return [f'<path class="line {tone}" d="{path(points, x, y)}"/>']
    trend = smooth(points, log)
    return [
        f'<path class="line raw {tone}" d="{path(points, x, y)}"/>',
        f'<path class="line {tone}" d="{path(trend, x, y)}"/>',
    ]


def _svg(chart: LineChart) -> Markup:
    shown = [_usable(series.points, chart.log) for series in chart.series]
    steps = [a for points in shown for a, _ in points] or [0.0, 1.0]
    values = [b for points in shown for _, b in points]
    low, high = chart.y_range or finite_range([*values, *(guide for guide, _ in chart.guides if values)], chart.log)
    left = 40
    x_low, x_high = min(steps), max(steps)
    x = Scale(x_low, x_high if x_high > x_low else x_low + 1, left, chart.width - 10)
    y = Scale(low, high, chart.height - 22, 8, chart.log)
    # Baselines first: the policy's line lies on top.
    ordered = sorted(chart.series, key=lambda series: series.tone == "policy")
    parts = [
        f'<svg class="chart" viewBox="0 0 {chart.width} {chart.height}" role="img" '
        f'aria-labelledby="{chart.key}-t {chart.key}-d">',
        f'<title id="{chart.key}-t">{escape(chart.title)}</title>',
        f'<desc id="{chart.key}-d">{escape(_describe(chart))}</desc>',
        *_frame(chart, x, y),
        *(line for series in ordered for line in _line(series, chart.log, chart.noisy, x, y)),
        "</svg>",
    ]
    return Markup("".join(parts))
