"""A comparison's result as Markdown, for documents."""

from __future__ import annotations

from typing import Any


def markdown(result: dict[str, Any]) -> str:
    """The sweeps, then a row per method."""
    scale, unit = (100, " %") if result["percent"] else (1, "")
    digits = 1 if result["percent"] else 4

    def change(interval: dict[str, float] | None) -> str:
        if interval is None:
            return ""
        mean, low, high = (f"{scale * interval[end]:+.{digits}f}" for end in ("mean", "low", "high"))
        return f"{mean} [{low}, {high}]"

    def plain(value: float | None, places: int = 2) -> str:
        return "" if value is None else f"{value:.{places}f}"

    lines = []
    if result["sweeps"]:
        lines += ["| method | knob | value | minus base (validation) | Fréchet | drift / contrast |", "|" + "---|" * 6]
        for name, curve in result["sweeps"].items():
            knob = str(curve["knob"]).rpartition(".")[2]
            for point in [*curve["points"], *([curve["auto"]] if curve["auto"] else [])]:
                value = "" if point["value"] is None else f"{point['value']:.4g}"
                value = f"auto ({value})" if point is curve["auto"] else value
                value = f"**{value}**" if point["value"] == curve["best"] else value
                row = [name, knob, value, change(point["gain"]), plain(point["frechet"])]
                lines.append("| " + " | ".join([*row, plain(point["drift_over_contrast"])]) + " |")
        lines.append("")
    versus = [f"minus {result['versus']}"] if result["versus"] else []
    header = [
        "method",
        "value",
        "score",
        "minus base",
        *versus,
        "Fréchet",
        "drift / contrast",
        "F per run",
        "s per run",
    ]
    lines += ["| " + " | ".join([*header, *result["categories"]]) + " |"]
    lines += ["|" + "---|" * (len(header) + len(result["categories"]))]
    base = result["reference"]
    cells = ["base", "", f"{scale * base['score']['mean']:.{digits}f}{unit}", "", *([""] if versus else [])]
    cells += [plain(base["frechet"]), "", "", "", *(f"{scale * v:.{digits}f}" for v in base["categories"].values())]
    lines.append("| " + " | ".join(cells) + " |")
    for row in result["rows"]:
        betas = row["betas"]
        value = f"{sum(betas) / len(betas):.4g}" if betas else "" if row["value"] is None else f"{row['value']:g}"
        frechet = row["frechet"]
        cells = [
            row["name"],
            value,
            f"{scale * row['score']:.{digits}f}{unit}",
            change(row["gain"]),
            *([change(row["against_versus"])] if versus else []),
            f"{frechet['mean']:.2f} ({frechet['low']:.2f} to {frechet['high']:.2f})" if frechet else "",
            plain(row["drift_over_contrast"]),
            f"{row['network_evaluations']:.0f}",
            f"{row['seconds']:.0f}",
            *(f"{scale * value:.{digits}f}" for value in row["categories"].values()),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
