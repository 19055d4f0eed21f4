"""comparison.json → comparison.html beside it: gains, the plane of score and quality, sweeps, win rates, costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..errors import UserError
from ..files import read_json, write_text
from .axes import MISSING, duration, number
from .build import asset
from .facts import flat
from .forest import ForestRow, Interval, forest
from .scatter import Point, pareto, sweep_chart
from .unit import Unit, interval_of

_TONES = {"best": "policy", "fixed": "policy", "auto": "baseline-1", "untrained": "reference"}


def build_comparison_page(source: Path) -> Path:
    """Write a page beside a comparison's JSON file, with its name; everything is inside this one file.

    Raises:
        UserError: there is no such comparison, or the page cannot be written.
    """
    data = read_json(source)
    if not isinstance(data, dict) or "rows" not in data:
        raise UserError(f"{source} is not a comparison; make it with `ddspo compare`")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(asset("comparison.html.j2")).render(context(data, source.parent))
    write_text(source.with_suffix(".html"), page)
    return source.with_suffix(".html")


def context(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What the template shows."""
    unit = Unit(bool(data["percent"]), str(data["scorer"]), bool(data["higher_is_better"]))
    rows = data["rows"]
    return {
        "data": data,
        "unit": unit,
        "sentence": _sentence(data, unit),
        "detail": _detail(data),
        "rows": [_table_row(number_, row, unit) for number_, row in enumerate(rows, 1)],
        "forests": _forests(rows, unit),
        "paretos": _paretos(data, unit),
        "sweeps": [_sweep(name, curve, unit, data) for name, curve in data["sweeps"].items() if curve["points"]],
        "wins": _wins(data["win_rate"]),
        "costs": [
            (stage, duration(c["seconds"]), number(c["network_evaluations"])) for stage, c in data["costs"].items()
        ],
        "sharing": _sharing(data["sharing"]),
        "matrix_text": _text(folder / "matrix.yaml"),
        "recipe_text": _text(folder / "recipe.yaml"),
        "environment": flat(read_json(folder / "environment.json")) if (folder / "environment.json").exists() else [],
        "style": Markup(asset("report.css") + asset("comparison.css")),
    }


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _interval(value: Any) -> Interval:
    return interval_of(value) or Interval(0.0, None, None)


def _winner(data: dict[str, Any]) -> dict[str, Any]:
    sign = 1 if data["higher_is_better"] else -1
    return dict(max(data["rows"], key=lambda row: sign * row["gain"]["mean"]))


def _sentence(data: dict[str, Any], unit: Unit) -> str:
    best = _winner(data)
    gain, name = _interval(best["gain"]), best["name"].replace(", auto", " at automatic beta")
    direction = gain.direction if unit.higher_is_better else -gain.direction
    if direction <= 0:
        return f"No method is clearly better than the base; the nearest is {name} with {unit.interval(gain)}."
    return f"{name} gains most: {unit.change(gain.mean, unit=True)} over the base."


def _detail(data: dict[str, Any]) -> str:
    seeds, prompts, each = len(data["seeds"]), data["prompts"], data["images_per_prompt"]
    budget = "the same pairs" if data["budget"] == "pairs" else "the same network evaluations"
    scale = data["guidance_scale"]
    guidance = "no guidance" if scale <= 1 else f"guidance {scale:g}"
    return (
        f"{seeds} training seed{'s' if seeds > 1 else ''} on {budget}; {prompts:,} prompts of {data['prompts_from']}, "
        f"{each} picture{'s' if each > 1 else ''} each, {guidance}, the same seeds for all. Intervals of "
        f"{data['confidence'] * 100:g} % "
        + ("over seeds and prompts." if seeds > 1 else "over prompts, for this one run.")
    )


def _value(row: dict[str, Any]) -> str:
    if row["betas"]:
        low, high = min(row["betas"]), max(row["betas"])
        return f"beta {number(low)}" if low == high else f"beta {number(low)} to {number(high)}"
    return MISSING if row["value"] is None else f"{row['value']:g}"


def _table_row(mark: int, row: dict[str, Any], unit: Unit) -> dict[str, Any]:
    gain, frechet, against = _interval(row["gain"]), row["frechet"], row["against_versus"]
    return {
        "mark": mark,
        "tone": _TONES[row["kind"]],
        "name": row["name"],
        "value": _value(row),
        "score": unit.value(row["score"]),
        "gain": unit.interval(gain),
        "direction": gain.direction if unit.higher_is_better else -gain.direction,
        "against": unit.interval(_interval(against)) if against else "",
        "frechet": number(frechet["mean"]) if frechet else MISSING,
        "frechet_range": f"{number(frechet['low'])} to {number(frechet['high'])}"
        if frechet and row["seeds"] > 1
        else "",
        "drift": number(row["drift_over_contrast"]),
        "evaluations": number(row["network_evaluations"]) if row["steps"] else "0",
        "seconds": duration(row["seconds"]) if row["steps"] else "0 s",
        "categories": [unit.value(value) for value in row["categories"].values()],
    }


def _forests(rows: list[dict[str, Any]], unit: Unit) -> list[Markup]:
    lines = [ForestRow(f"{mark}  {row['name']}", _interval(row["gain"])) for mark, row in enumerate(rows, 1)]
    common: dict[str, Any] = {"tick": unit.tick, "show": unit.interval, "title": "Gain of every method over the base"}
    common["higher_is_better"] = unit.higher_is_better
    return [
        forest(lines, key="gain-wide", width=1030, label_px=230, note_px=160, **common),
        forest(lines, key="gain-narrow", width=340, label_px=128, note_px=0, **common),
    ]


def _paretos(data: dict[str, Any], unit: Unit) -> list[Markup]:
    """Score against Fréchet distance, wide and narrow; none where the distance is not known."""
    points = [
        Point(
            row["name"],
            str(mark),
            _TONES[row["kind"]],
            row["frechet"]["mean"],
            Interval(row["score"], *_ends(row)),
        )
        for mark, row in enumerate(data["rows"], 1)
        if row["frechet"]
    ]
    base = data["reference"]
    if not points or base["frechet"] is None:
        return []
    points = [Point("base", "0", "reference", base["frechet"], Interval(base["score"]["mean"], None, None)), *points]
    common: dict[str, Any] = {
        "title": "Score against Fréchet distance",
        "x_name": "Fréchet distance",
        "y_name": "score",
    }
    return [
        pareto(
            points, key=f"pareto-{name}", width=width, show=unit.value, higher_is_better=unit.higher_is_better, **common
        )
        for name, width in (("wide", 1030), ("narrow", 340))
    ]


def _ends(row: dict[str, Any]) -> tuple[float | None, float | None]:
    """The gain's interval, moved to the score: base and method are judged on the same prompts."""
    gain = _interval(row["gain"])
    if gain.low is None or gain.high is None:
        return None, None
    return row["score"] + gain.low - gain.mean, row["score"] + gain.high - gain.mean


def _sweep(name: str, curve: dict[str, Any], unit: Unit, data: dict[str, Any]) -> dict[str, Any]:
    auto = curve["auto"]
    knob = str(curve["knob"]).rpartition(".")[2].replace("_", " ")
    points = [
        Point(name, "best" if p["value"] == curve["best"] else "", "policy", p["value"], _interval(p["gain"]))
        for p in curve["points"]
        if p["value"] > 0
    ]
    if auto and auto["value"] and knob == "beta":
        points.append(Point(name, "auto", "baseline-1", auto["value"], _interval(auto["gain"])))
    chart = sweep_chart(
        points, key=f"sweep-{name}", title=f"{name}: gain along {knob}", guide=(0.0, "base"), show=unit.tick
    )
    told = ", ".join(f"{p['value']:g}: {number(p['drift_over_contrast'])}" for p in curve["points"])
    has_drift = any(p["drift_over_contrast"] is not None for p in curve["points"])
    return {"name": name, "knob": knob, "chart": chart, "drift": told if has_drift else ""}


def _wins(found: dict[str, Any]) -> dict[str, Any]:
    """Cells of the win-rate table: text, side, strength of the tint, and whether the interval leaves one half out."""

    def cell(value: dict[str, float] | None) -> dict[str, Any] | None:
        if value is None:
            return None
        return {
            "text": f"{value['mean'] * 100:.0f}",
            "side": "win" if value["mean"] >= 0.5 else "lose",
            "tint": round(min(60.0, abs(value["mean"] - 0.5) * 240)),
            "clear": value["low"] > 0.5 or value["high"] < 0.5,
            "range": f"{value['low'] * 100:.1f} to {value['high'] * 100:.1f} %",
        }

    return {"names": found["names"], "rows": [[cell(value) for value in row] for row in found["rows"]]}


def _sharing(found: dict[str, Any] | None) -> list[tuple[str, str, str, str]]:
    if not found:
        return []
    return [
        (name, number(part["shared"]), number(part["separate"]), f"{part['ratio']:.2f}")
        for name, part in found.items()
        if isinstance(part, dict)
    ]
