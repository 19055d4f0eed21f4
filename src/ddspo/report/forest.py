"""The chart of differences: one row per category, a mark with its interval, and zero as the line to clear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from .axes import Scale, linear_ticks


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its interval; an end is None where none could be computed."""

    mean: float
    low: float | None
    high: float | None

    @property
    def direction(self) -> int:
        """1: the interval lies above zero, -1: below, 0: it holds zero or is unknown."""
        if self.low is None or self.high is None:
            return 0
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


@dataclass(frozen=True)
class ForestRow:
    """One row: `strong` for the overall difference, `tone` a color class for rows of a baseline."""

    label: str
    interval: Interval
    note: str = ""
    strong: bool = False
    tone: str = ""


TONES = {1: "gain", 0: "even", -1: "loss"}
_ROW = 30


def _mark(row: ForestRow, x: Scale, at: float, higher_is_better: bool) -> list[str]:
    direction = row.interval.direction if higher_is_better else -row.interval.direction
    tone = escape(row.tone) if row.tone else TONES[direction]
    center = x(row.interval.mean)
    lines = []
    if row.interval.low is not None and row.interval.high is not None:
        low, high = x(row.interval.low), x(row.interval.high)
        weight = "whisker strong" if row.strong else "whisker"
        lines.append(f'<line class="{weight} {tone}" x1="{low:.1f}" x2="{high:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>')
        for end in (low, high):
            lines.append(
                f'<line class="{weight} {tone}" x1="{end:.1f}" x2="{end:.1f}" y1="{at - 4:.1f}" y2="{at + 4:.1f}"/>'
            )
    if row.strong:
        size = 7.5
        lines.append(
            f'<path class="mark {tone}" d="M{center:.1f} {at - size:.1f}'
            f'l{size} {size}l-{size} {size}l-{size} -{size}z"/>'
        )
    else:
        lines.append(
            f'<rect class="mark {tone}" x="{center - 4.5:.1f}" y="{at - 4.5:.1f}" width="9" height="9" rx="1"/>'
        )
    return lines


def whole_range(rows: Sequence[ForestRow]) -> tuple[float, float]:
    """What holds zero and every interval, with a little air."""
    ends = [0.0]
    for row in rows:
        ends += [end for end in (row.interval.mean, row.interval.low, row.interval.high) if end is not None]
    low, high = min(ends), max(ends)
    air = (high - low) * 0.08 or 0.01
    return low - air, high + air


def forest(
    rows: Sequence[ForestRow],
    *,
    key: str,
    tick: Callable[[float], str],
    show: Callable[[Interval], str],
    title: str,
    width: int,
    label_px: int,
    note_px: int,
    higher_is_better: bool = True,
) -> Markup:
    """The chart as SVG: labels on the left, marks in the middle, numbers on the right (none where `note_px` is 0).

    Args:
        key: makes the ids of title and description unique on the page.
        tick: writes a value of the axis.
        show: writes an interval; used beside the marks and in the description read aloud.
    """
    height = _ROW * len(rows) + 44
    low, high = whole_range(rows)
    x = Scale(low, high, label_px + 8, width - note_px - 12)
    told = "; ".join(f"{row.label}: {show(row.interval)}" for row in rows)
    bottom = height - 36
    sides = ("worse", "better") if higher_is_better else ("better", "worse")
    parts = [
        f'<svg class="chart forest" viewBox="0 0 {width} {height}" role="img" aria-labelledby="{key}-t {key}-d">',
        f'<title id="{key}-t">{escape(title)}</title><desc id="{key}-d">{escape(told)}.</desc>',
    ]
    for value in linear_ticks(low, high, 9 if width > 500 else 5):
        at = x(value)
        style = "zero" if value == 0 else "grid"
        parts.append(f'<line class="{style}" x1="{at:.1f}" x2="{at:.1f}" y1="4" y2="{bottom}"/>')
        parts.append(
            f'<text class="tick" x="{at:.1f}" y="{bottom + 15}" text-anchor="middle">{escape(tick(value))}</text>'
        )
    parts.append(f'<text class="tick" x="{x(0) - 8:.1f}" y="{bottom + 31}" text-anchor="end">← {sides[0]}</text>')
    parts.append(f'<text class="tick" x="{x(0) + 8:.1f}" y="{bottom + 31}">{sides[1]} →</text>')
    whole = sum(bool(row.strong or row.tone) for row in rows)
    if 0 < whole < len(rows):
        at = 4 + _ROW * whole
        parts.append(f'<line class="grid" x1="0" x2="{width}" y1="{at}" y2="{at}"/>')
    for index, row in enumerate(rows):
        at = 4 + _ROW * (index + 0.5)
        weight = "row-label strong" if row.strong else "row-label"
        parts.append(f'<text class="{weight}" x="0" y="{at + 4.5:.1f}">{escape(row.label)}</text>')
        parts += _mark(row, x, at, higher_is_better)
        if note_px:
            text = escape(row.note or show(row.interval))
            parts.append(f'<text class="row-note" x="{width}" y="{at + 4.5:.1f}" text-anchor="end">{text}</text>')
    parts.append("</svg>")
    return Markup("".join(parts))


def failure_bars(
    kinds: Sequence[tuple[str, Sequence[float]]],
    models: Sequence[tuple[str, str]],
    *,
    key: str,
    show: Callable[[float], str],
    width: int,
    label_px: int,
) -> Markup:
    """Horizontal bars, one group per kind of failure and one bar per model; shares of all pictures of that model.

    Args:
        kinds: (name, share per model) in the order to show.
        models: (name, tone) in the order of the shares.
    """
    bar, gap = 15, 16
    group = bar * len(models) + gap
    height = group * len(kinds) + 4
    most = max((share for _, shares in kinds for share in shares), default=0.0) or 1.0
    x = Scale(0.0, most, label_px + 8, width - 58)
    told = "; ".join(
        f"{kind}: " + ", ".join(f"{name} {show(share)}" for (name, _), share in zip(models, shares, strict=True))
        for kind, shares in kinds
    )
    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-labelledby="{key}-t {key}-d">',
        f'<title id="{key}-t">Kinds of failure, share of all pictures</title><desc id="{key}-d">{escape(told)}.</desc>',
    ]
    for index, (kind, shares) in enumerate(kinds):
        top = index * group + gap / 2
        middle = top + bar * len(models) / 2 + 4.5
        parts.append(f'<text class="row-label" x="0" y="{middle:.1f}">{escape(kind)}</text>')
        for place, ((_, tone), share) in enumerate(zip(models, shares, strict=True)):
            at = top + place * bar
            end = x(share)
            parts.append(
                f'<rect class="bar {escape(tone)}" x="{x.start}" y="{at:.1f}" width="{max(end - x.start, 0.5):.1f}" '
                f'height="{bar - 2}" rx="1.5"/>'
            )
            parts.append(
                f'<text class="bar-note" x="{end + 6:.1f}" y="{at + bar - 4:.1f}">{escape(show(share))}</text>'
            )
    parts.append("</svg>")
    return Markup("".join(parts))
