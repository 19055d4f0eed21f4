"""Two charts of a comparison as inline SVG: score against quality, and score along a sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from .axes import Scale, finite_range, linear_ticks, log_ticks, number, tick_label
from .forest import Interval


@dataclass(frozen=True)
class Point:
    """One mark: `mark` is written inside it, `tone` is its color class; y may have an interval."""

    name: str
    mark: str
    tone: str
    x: float
    y: Interval


def _head(key: str, title: str, told: str, width: int, height: int) -> list[str]:
    return [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-labelledby="{key}-t {key}-d">',
        f'<title id="{key}-t">{escape(title)}</title><desc id="{key}-d">{escape(told)}</desc>',
    ]


def _grid(x: Scale, y: Scale, show: Callable[[float], str], width: int) -> list[str]:
    lines = []
    for value in linear_ticks(y.low, y.high, 6):
        at, told = y(value), escape(show(value))
        lines.append(f'<line class="grid" x1="{x.start:.1f}" x2="{x.end:.1f}" y1="{at:.1f}" y2="{at:.1f}"/>')
        lines.append(f'<text class="tick" x="{x.start - 6:.1f}" y="{at + 3.5:.1f}" text-anchor="end">{told}</text>')
    ticks = log_ticks(x.low, x.high, 5) if x.log else linear_ticks(x.low, x.high, 8 if width > 500 else 4)
    for value in ticks:
        at, label = x(value), tick_label(value, x.log)
        lines.append(f'<text class="tick" x="{at:.1f}" y="{y.start + 15:.1f}" text-anchor="middle">{label}</text>')
    return lines


def _whisker(point: Point, x: Scale, y: Scale) -> str:
    if point.y.low is None or point.y.high is None:
        return ""
    at = x(point.x)
    return (
        f'<line class="whisker faint {escape(point.tone)}" x1="{at:.1f}" x2="{at:.1f}" '
        f'y1="{y(point.y.low):.1f}" y2="{y(point.y.high):.1f}"/>'
    )


def _values(points: Sequence[Point]) -> list[float]:
    return [end for point in points for end in (point.y.mean, point.y.low, point.y.high) if end is not None]


def frontier(points: Sequence[Point], lower_x: bool = True, higher_y: bool = True) -> list[Point]:
    """The points that no other beats in both: at least as good in x and y, and better in one; by rising x."""

    def worse(one: Point, other: Point) -> bool:
        dx, dy = (other.x - one.x) * (-1 if lower_x else 1), (other.y.mean - one.y.mean) * (1 if higher_y else -1)
        return dx >= 0 and dy >= 0 and (dx > 0 or dy > 0)

    best = [one for one in points if not any(worse(one, other) for other in points)]
    return sorted(best, key=lambda point: (point.x, point.y.mean))


def pareto(
    points: Sequence[Point],
    *,
    key: str,
    title: str,
    x_name: str,
    y_name: str,
    show: Callable[[float], str],
    width: int,
    higher_is_better: bool = True,
) -> Markup:
    """Numbered marks over the plane of x (lower is better) and y, with the line of those that none beats in both."""
    height = 420 if width > 500 else 340
    low, high = finite_range([point.x for point in points])
    x = Scale(low, high, 48, width - 14)
    y = Scale(*finite_range(_values(points)), height - 42, 12)
    edge = frontier(points, higher_y=higher_is_better)
    told = "; ".join(f"{p.mark} {p.name}: {x_name} {number(p.x)}, {y_name} {show(p.y.mean)}" for p in points)
    parts = [*_head(key, title, f"{told}. Not beaten in both: {', '.join(p.name for p in edge)}.", width, height)]
    parts += _grid(x, y, show, width)
    line = "L".join(f"{x(point.x):.1f} {y(point.y.mean):.1f}" for point in edge)
    parts.append(f'<path class="guide" fill="none" d="M{line}"/>')
    parts += [_whisker(point, x, y) for point in points]
    for point in points:
        at, up = x(point.x), y(point.y.mean)
        parts.append(f'<circle class="dot {escape(point.tone)}" cx="{at:.1f}" cy="{up:.1f}" r="9"/>')
        parts.append(
            f'<text class="inside" x="{at:.1f}" y="{up + 4:.1f}" text-anchor="middle">{escape(point.mark)}</text>'
        )
    parts.append(
        f'<text class="tick" x="{x.end:.1f}" y="{height - 6}" text-anchor="end">{escape(x_name)}, ← better</text>'
    )
    parts.append("</svg>")
    return Markup("".join(parts))


def sweep_chart(
    points: Sequence[Point],
    *,
    key: str,
    title: str,
    guide: tuple[float, str],
    show: Callable[[float], str],
    width: int = 340,
) -> Markup:
    """Score along the values of a sweep, on a logarithmic axis; the point marked 'auto' stands beside the line.

    Args:
        points: x positive; those with an empty `mark` are joined by a line.
        guide: a horizontal line, such as the base's score, with its label.
    """
    height = 210
    low, high = finite_range([point.x for point in points], log=True)
    x = Scale(low, high, 44, width - 12, log=True)
    y = Scale(*finite_range([*_values(points), guide[0]]), height - 24, 10)
    told = "; ".join(f"{p.mark or 'at'} {number(p.x)}: {show(p.y.mean)}" for p in points)
    parts = [*_head(key, title, f"{told}. {guide[1]}: {show(guide[0])}.", width, height), *_grid(x, y, show, width)]
    at = y(guide[0])
    parts.append(f'<line class="guide" x1="{x.start}" x2="{x.end}" y1="{at:.1f}" y2="{at:.1f}"/>')
    parts.append(f'<text class="guide-label on-lines" x="{x.start + 3}" y="{at - 4:.1f}">{escape(guide[1])}</text>')
    swept = sorted((point for point in points if point.mark != "auto"), key=lambda point: point.x)
    parts += [_whisker(point, x, y) for point in points]
    if len(swept) > 1:
        line = "L".join(f"{x(point.x):.1f} {y(point.y.mean):.1f}" for point in swept)
        parts.append(f'<path class="line policy" d="M{line}"/>')
    for point in points:
        across, up, size = x(point.x), y(point.y.mean), 6.5 if point.mark else 3.5
        parts.append(f'<circle class="dot {escape(point.tone)}" cx="{across:.1f}" cy="{up:.1f}" r="{size}"/>')
        if point.mark:
            anchor = "end" if across > width * 0.6 else "start"
            shift = -10 if anchor == "end" else 10
            parts.append(
                f'<text class="guide-label on-lines strong" x="{across + shift:.1f}" y="{up - 8:.1f}" '
                f'text-anchor="{anchor}">{escape(point.mark)}</text>'
            )
    parts.append("</svg>")
    return Markup("".join(parts))
