"""The small chart beside the verdict: the difference and its interval on one line with the zero that it must clear."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup, escape

from .axes import Scale, linear_ticks
from .forest import TONES, ForestRow, Interval, whole_range

_WIDTH, _ROW, _TOP = 330, 40, 6
MOST_ROWS = 5


def ruler(
    rows: Sequence[ForestRow],
    *,
    tick: Callable[[float], str],
    show: Callable[[Interval], str],
    higher_is_better: bool = True,
) -> Markup:
    """The policy's row and those of baselines below it, at most `MOST_ROWS`: bands for intervals, marks for means.

    Args:
        rows: the policy first, then baselines; each says by its `tone` which color it has, '' is that of the verdict.
        tick: writes a value of the axis.
        show: writes an interval, for the description read aloud.
    """
    rows = rows[:MOST_ROWS]
    bottom = _TOP + _ROW * len(rows)
    x = Scale(*whole_range(rows), 8, _WIDTH - 8)
    told = "; ".join(f"{row.label}: {show(row.interval)}" for row in rows)
    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {bottom + 36}" role="img" aria-labelledby="ruler-t ruler-d">',
        '<title id="ruler-t">Difference to the base with its interval</title>',
        f'<desc id="ruler-d">{escape(told)}.</desc>',
    ]
    for value in linear_ticks(x.low, x.high, 6):
        at = x(value)
        style = "zero" if value == 0 else "grid"
        parts.append(f'<line class="{style}" x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{bottom}"/>')
        parts.append(
            f'<text class="tick" x="{at:.1f}" y="{bottom + 15}" text-anchor="middle">{escape(tick(value))}</text>'
        )
    sides = ("worse", "better") if higher_is_better else ("better", "worse")
    # Words that do not fit on their side of zero would run out of the picture.
    if x(0) > 60:
        parts.append(f'<text class="tick" x="{x(0) - 8:.1f}" y="{bottom + 31}" text-anchor="end">← {sides[0]}</text>')
    if x(0) < _WIDTH - 60:
        parts.append(f'<text class="tick" x="{x(0) + 8:.1f}" y="{bottom + 31}">{sides[1]} →</text>')
    for index, row in enumerate(rows):
        parts += _row(row, x, _TOP + _ROW * index, higher_is_better)
    return Markup("".join([*parts, "</svg>"]))


def _row(row: ForestRow, x: Scale, top: float, higher_is_better: bool) -> list[str]:
    direction = row.interval.direction if higher_is_better else -row.interval.direction
    tone = escape(row.tone) if row.tone else TONES[direction]
    weight, half = ("row-label on-lines strong", 7) if row.strong else ("row-label on-lines", 4)
    middle, center = top + 25, x(row.interval.mean)
    lines = [f'<text class="{weight}" x="0" y="{top + 11}">{escape(row.label)}</text>']
    if row.interval.low is not None and row.interval.high is not None:
        low, high = x(row.interval.low), x(row.interval.high)
        lines.append(
            f'<rect class="band {tone}" x="{low:.1f}" y="{middle - half}" width="{max(high - low, 1):.1f}" '
            f'height="{2 * half}" rx="{half}"/>'
        )
    return [*lines, f'<circle class="mark {tone}" cx="{center:.1f}" cy="{middle}" r="{half}"/>']
