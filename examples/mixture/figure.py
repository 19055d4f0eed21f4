"""The toy figure: samples of each policy, one color per condition, and mass in the right mode along beta; plain SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddspo.report.axes import Scale, log_ticks, tick_label

from .world import CENTERS, DEVIATION, MODES

_PANEL, _GAP, _EDGE, _CHART = 230, 14, 3.4, 250
_STYLE = """
svg{font:13px system-ui,sans-serif;background:#fff}text{fill:#1a1c1f}.small{font-size:11.5px;fill:#5a5f67}
.dots{fill:none;stroke-width:2.4;stroke-linecap:round;opacity:.75}.ring{fill:none;stroke:#8a8f96;stroke-width:1}
.frame{fill:none;stroke:#e2e2dc}.grid{stroke:#e2e2dc}.line{fill:none;stroke-width:2.2}.auto{stroke:#fff;stroke-width:1.5}
@media (prefers-color-scheme:dark){svg{background:#131416}text{fill:#ececea}.small{fill:#a6abb3}
.frame,.grid{stroke:#31353a}}
"""
TONES = ("#0069a8", "#b04a00", "#00795a", "#8a4a86", "#806000", "#7b818a")


@dataclass(frozen=True)
class Panel:
    """Samples [N, 2] drawn for conditions [N], under a title and a line of numbers."""

    title: str
    note: str
    samples: Tensor
    condition: Tensor


@dataclass(frozen=True)
class Curve:
    """Mass within three deviations along beta; `auto` is (beta, mass) at automatic beta."""

    name: str
    points: Sequence[tuple[float, float]]
    auto: tuple[float, float] | None = None


def _panel(panel: Panel, left: float, top: float) -> str:
    across, up = Scale(-_EDGE, _EDGE, left, left + _PANEL), Scale(-_EDGE, _EDGE, top + _PANEL, top)
    parts = [
        f'<text x="{left}" y="{top - 22}">{panel.title}</text>'
        f'<text class="small" x="{left}" y="{top - 6}">{panel.note}</text>'
        f'<rect class="frame" x="{left}" y="{top}" width="{_PANEL}" height="{_PANEL}"/>'
    ]
    radius = 3 * DEVIATION * _PANEL / (2 * _EDGE)
    for mode, (x, y) in enumerate(CENTERS.tolist()):
        parts.append(f'<circle class="ring" cx="{across(x):.1f}" cy="{up(y):.1f}" r="{radius:.1f}"/>')
        inside = (panel.samples.abs() < _EDGE).all(1) & (panel.condition == mode)
        dots = "".join(f"M{across(a):.1f} {up(b):.1f}h0" for a, b in panel.samples[inside].tolist())
        parts.append(f'<path class="dots" stroke="hsl({360 * mode // MODES} 65% 48%)" d="{dots}"/>')
    return "".join(parts)


def _chart(curves: Sequence[Curve], guide: float, left: float, top: float, width: float) -> str:
    betas = [beta for curve in curves for beta, _ in [*curve.points, *([curve.auto] if curve.auto else [])]]
    x = Scale(min(betas) / 1.4, max(betas) * 1.4, left, left + width, log=True)
    y = Scale(0.0, 1.0, top + _CHART, top)
    parts = [f'<text x="{left}" y="{top - 14}">Mass within three deviations of the right mode, along beta</text>']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<line class="grid" x1="{left}" x2="{left + width}" y1="{y(share):.1f}" y2="{y(share):.1f}"/>')
        parts.append(f'<text class="small" x="{left - 6}" y="{y(share) + 4:.1f}" text-anchor="end">{share:g}</text>')
    for beta in log_ticks(x.low, x.high):
        at = f'x="{x(beta):.1f}" y="{top + _CHART + 17}"'
        parts.append(f'<text class="small" {at} text-anchor="middle">{tick_label(beta, True)}</text>')
    parts.append(
        f'<path class="ring" stroke-dasharray="4 4" d="M{left} {y(guide):.1f}h{width}"/>'
        f'<text class="small" x="{left + 4}" y="{y(guide) - 5:.1f}">reference</text>'
    )
    for number, (curve, tone) in enumerate(zip(curves, TONES, strict=False)):
        line = "L".join(f"{x(beta):.1f} {y(mass):.1f}" for beta, mass in sorted(curve.points))
        parts.append(f'<path class="line" stroke="{tone}" d="M{line}"/>')
        parts += [f'<circle fill="{tone}" cx="{x(b):.1f}" cy="{y(m):.1f}" r="3"/>' for b, m in curve.points]
        if curve.auto:
            parts.append(
                f'<circle class="auto" fill="{tone}" cx="{x(curve.auto[0]):.1f}" cy="{y(curve.auto[1]):.1f}" r="8"/>'
            )
        at = top + 18 * number + 8
        parts.append(f'<circle fill="{tone}" cx="{left + width + 22}" cy="{at}" r="5"/>')
        parts.append(f'<text x="{left + width + 34}" y="{at + 4}">{curve.name}</text>')
    parts.append(
        f'<text class="small" x="{left + width + 16}" y="{top + 18 * len(curves) + 14}">large dots: beta auto</text>'
    )
    return "".join(parts)


def draw(panels: Sequence[Panel], curves: Sequence[Curve], guide: float) -> str:
    """The whole figure.

    Args:
        panels: shown three in a row.
        curves: of the chart below; as many as there are tones.
        guide: the reference's mass, a dashed line.
    """
    rows = -(-len(panels) // 3)
    width, chart_top = 3 * _PANEL + 4 * _GAP, rows * (_PANEL + 52) + 44
    height = chart_top + _CHART + 30
    told = "; ".join(f"{panel.title}: {panel.note}" for panel in panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
        "<title>Eight conditions, one mode each: what objectives make of a reference that mixes them up</title>"
        f"<desc>{told}</desc><style>{_STYLE}</style>"
    ]
    for number, panel in enumerate(panels):
        row, column = divmod(number, 3)
        parts.append(_panel(panel, _GAP + column * (_PANEL + _GAP), 44 + row * (_PANEL + 52)))
    parts.append(_chart(curves, guide, 52, chart_top, width - 52 - 190))
    return "".join([*parts, "</svg>\n"])


def true_samples(count: int, seed: int = 5) -> tuple[Tensor, Tensor]:
    """What a perfect policy draws: (samples [count, 2], conditions [count])."""
    condition = torch.arange(count) % MODES
    noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return CENTERS[condition] + DEVIATION * noise, condition
