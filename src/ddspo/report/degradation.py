"""What kinds of degraded prompts there are, and how differently the reference sees them: which can teach anything."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from ..errors import UserError
from ..files import read_json, read_jsonl
from .axes import MISSING, Scale, log_ticks, number
from .data import RunData, finite
from .verdict import label

_ROW = 26
ALL = "all kinds"


@dataclass
class Kind:
    """One kind of degradation; lists hold one value per variant or per pair, as far as it was measured."""

    name: str
    variants: int = 0
    text: list[float] = field(default_factory=list)
    embedding: list[float] = field(default_factory=list)
    pairs: int = 0
    contrast: list[float] = field(default_factory=list)

    def left_out(self, minimum: float) -> int:
        """Pairs below the threshold."""
        return sum(value < minimum for value in self.contrast)


def quantiles(values: Sequence[float]) -> tuple[float, float, float] | None:
    """(10 %, 50 %, 90 %) of the values, linear between neighbors; None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    return at(0.1), at(0.5), at(0.9)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file up to its first unreadable one, one at a time: there may be hundreds of thousands."""
    with contextlib.suppress(UserError, UnicodeDecodeError):
        yield from read_jsonl(path)


def read_kinds(run: Path) -> list[Kind]:
    """Kinds with what `degraded.jsonl`, the pairs' index and the contrast files tell, the most frequent first."""
    kinds: defaultdict[str, Kind] = defaultdict(lambda: Kind(""))
    for row in _rows(run / "degraded.jsonl"):
        for how in row.get("how") or []:
            kind = kinds[str(how.get("kind"))]
            kind.variants += 1
            for values, key in ((kind.text, "text_distance"), (kind.embedding, "embedding_distance")):
                if (distance := finite(how.get(key))) is not None:
                    values.append(distance)
    contrasts = _contrasts(run / "pairs")
    for index in sorted((run / "pairs").glob("shard-*.jsonl")):
        for row in _rows(index):
            kind = kinds[str(row.get("kind"))]
            kind.pairs += 1
            if (contrast := contrasts.get(str(row.get("id")))) is not None:
                kind.contrast.append(contrast)
    for name, kind in kinds.items():
        kind.name = name
    return sorted(kinds.values(), key=lambda kind: (-kind.variants, -kind.pairs, kind.name))


def _contrasts(pairs: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for path in sorted(pairs.glob("contrast-*.json")):
        try:
            values = read_json(path).get("contrast")
        except UserError:
            continue
        found |= {str(pair): value for pair, value in values.items() if finite(value) is not None}
    return found


def _reasons(run: Path) -> list[tuple[str, str, int]]:
    """(what, reason, count) of prompts and variants that were left out."""
    path = run / "degraded.settings.json"
    try:
        summary = read_json(path).get("summary") or {}
    except UserError:
        return []
    told = (("prompts", "skipped"), ("variants", "dropped"))
    return [(what, str(reason), int(count)) for what, key in told for reason, count in (summary.get(key) or {}).items()]


def degradation(data: RunData) -> dict[str, Any] | None:
    """The section's table, chart and counts; None when no variant says its kind."""
    kinds = [kind for kind in read_kinds(data.run) if kind.variants or kind.contrast]
    reasons = _reasons(data.run)
    if not kinds:
        return None
    minimum = finite(data.setting("pairs", "min_contrast")) or 0.0
    shown = [_together(kinds), *kinds] if len(kinds) > 1 else kinds
    measured = [kind for kind in shown if any(value > 0 for value in kind.contrast)]
    return {
        "rows": [_cells(kind, minimum) for kind in shown],
        "embedding": any(kind.embedding for kind in kinds),
        "contrast": bool(measured),
        "minimum": number(minimum) if minimum else None,
        "left_out": sum(kind.left_out(minimum) for kind in kinds),
        "pairs": sum(kind.pairs for kind in kinds),
        "reasons": reasons,
        "charts": [
            contrast_chart(measured, minimum, key="contrast-wide", width=1030, label_px=150),
            contrast_chart(measured, minimum, key="contrast-narrow", width=340, label_px=112),
        ]
        if measured
        else [],
    }


def _together(kinds: Sequence[Kind]) -> Kind:
    whole = Kind(ALL)
    for kind in kinds:
        whole.variants += kind.variants
        whole.pairs += kind.pairs
        whole.text += kind.text
        whole.embedding += kind.embedding
        whole.contrast += kind.contrast
    return whole


def _cells(kind: Kind, minimum: float) -> dict[str, Any]:
    def three(values: Sequence[float]) -> str:
        ends = quantiles(values)
        return MISSING if ends is None else f"{number(ends[1])} ({number(ends[0])} to {number(ends[2])})"

    return {
        "name": label(kind.name),
        "strong": kind.name == ALL,
        "variants": kind.variants,
        "text": three(kind.text),
        "embedding": three(kind.embedding),
        "pairs": kind.pairs,
        "contrast": three(kind.contrast),
        "left_out": kind.left_out(minimum),
    }


def contrast_chart(kinds: Sequence[Kind], minimum: float, *, key: str, width: int, label_px: int) -> Markup:
    """One line per kind: from the contrast that 10 % of its pairs stay below to that which 90 % do, with the median."""
    spans = {kind.name: [max(value, 1e-12) for value in quantiles(kind.contrast) or ()] for kind in kinds}
    ends = [value for span in spans.values() for value in span] + ([minimum] if minimum > 0 else [])
    x = Scale(min(ends) / 1.2, max(ends) * 1.2, label_px + 8, width - 16, log=True)
    height = _ROW * len(kinds) + 28
    bottom = height - 22
    told = "; ".join(f"{label(name)}: median {number(span[1])}" for name, span in spans.items())
    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-labelledby="{key}-t {key}-d">',
        f'<title id="{key}-t">Contrast of pairs by kind of degradation</title>',
        f'<desc id="{key}-d">{escape(told)}.</desc>',
    ]
    for value in log_ticks(x.low, x.high, 7 if width > 500 else 3):
        at = x(value)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="4" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{at:.1f}" y="{bottom + 15}" text-anchor="middle">{number(value)}</text>')
    if minimum > 0:
        at = x(minimum)
        parts.append(f'<line class="zero" x1="{at:.1f}" x2="{at:.1f}" y1="4" y2="{bottom}"/>')
    for place, (name, (low, middle, high)) in enumerate(spans.items()):
        at = 4 + _ROW * (place + 0.5)
        parts.append(f'<text class="row-label" x="0" y="{at + 4.5:.1f}">{escape(label(name))}</text>')
        parts.append(
            f'<line class="whisker even" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<rect class="mark even" x="{x(middle) - 4:.1f}" y="{at - 4:.1f}" width="8" height="8" rx="1"/>'
        )
    parts.append("</svg>")
    return Markup("".join(parts))
