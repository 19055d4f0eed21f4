"""Every objective on the mixture of Gaussians: measures, the toy figure, and where beta is safe.

    python -m examples.mixture runs/mixture               under a minute: every objective at its best beta
    python -m examples.mixture runs/mixture --sweep --seeds 5      all betas, and the best of each over several seeds

Writes OUT/mixture.svg, OUT/results.json and OUT/table.md.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student_t

from ddspo.files import write_json, write_text

from .cells import DOTS, JUDGING, Cell, Dots, Found, carry_out_all, dots
from .figure import Curve, Panel, draw, true_samples
from .training import METHODS
from .world import MODES, Measures, measure, noise_prediction

SHOWN, CURVES = ("Diffusion-DPO", "DSPO", "DDSPO"), ("Diffusion-DPO", "DDSPO")
MEASURED = ("frechet", "mass", "accuracy", "bias", "spread")

CarryOut = Callable[[list[Cell]], dict[Cell, Found]]


def best_betas(names: list[str], carry_out: CarryOut) -> tuple[dict[str, float | None], dict[str, list[Found]]]:
    """(best beta of each by Fréchet distance, all that was tried), one seed, on samples of their own."""
    cells = {name: [Cell(name, beta) for beta in METHODS[name].betas] for name in names}
    found = carry_out([cell for tried in cells.values() for cell in tried])
    tried = {name: [found[cell] for cell in cells[name]] for name in names}
    best = {name: min(rows, key=lambda row: row.choosing.frechet).beta for name, rows in tried.items() if rows}
    return best, tried


def over_seeds(name: str, auto: bool, found: list[Found]) -> dict[str, Any]:
    """One row of the table: means with 95 % intervals over training seeds."""
    drifts = [one.drift for one in found if one.drift is not None]
    measures = [asdict(one.judging) for one in found]
    return {
        "method": name,
        "beta": found[0].beta,
        "auto": auto,
        "seeds": len(found),
        "drift": sum(drifts) / len(drifts) if drifts else None,
        **{field: interval([one[field] for one in measures]) for field in MEASURED},
    }


def interval(values: list[float]) -> dict[str, float]:
    """{"mean", "low", "high"} by Student's t; without width for one value."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return {"mean": mean, "low": mean, "high": mean}
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    reach = float(student_t.ppf(0.975, len(values) - 1)) * deviation / math.sqrt(len(values))
    return {"mean": mean, "low": mean - reach, "high": mean + reach}


def table(reference: Measures, rows: list[dict[str, Any]]) -> str:
    """Markdown."""

    def cell(value: dict[str, float]) -> str:
        spread = f" [{value['low']:.3f}, {value['high']:.3f}]" if value["high"] > value["low"] else ""
        return f"{value['mean']:.3f}{spread}"

    lines = [
        "| method | beta | Fréchet distance | mass | accuracy | mode bias | spread | drift / contrast |",
        "|" + "---|" * 8,
    ]
    plain = asdict(reference)
    lines.append("| reference | | " + " | ".join(f"{plain[field]:.3f}" for field in MEASURED) + " | |")
    for row in rows:
        beta = "" if row["beta"] is None else f"{row['beta']:g}"
        cells = [row["method"], f"auto ({beta})" if row["auto"] else beta]
        cells += [cell(row[field]) for field in MEASURED]
        lines.append("| " + " | ".join([*cells, "" if row["drift"] is None else f"{row['drift']:.2f}"]) + " |")
    return "\n".join(lines) + "\n"


def panel(title: str, samples: Dots, measures: Measures) -> Panel:
    """Samples of a policy or of the reference."""
    note = f"mass {measures.mass:.2f}, spread {measures.spread:.2f}, distance {measures.frechet:.1f}"
    return Panel(title, note, torch.tensor(samples), torch.arange(DOTS) % MODES)


def figure(
    reference: Measures, shown: dict[str, Found], sweeps: dict[str, list[Found]], autos: dict[str, Found]
) -> str:
    """The toy figure from what was measured with the first seed; `shown` at the best beta of each."""
    panels = [
        Panel("what is asked for", "one mode per condition", *true_samples(DOTS)),
        panel("reference", dots(noise_prediction), reference),
    ]
    panels += [panel(f"{name}, beta {one.beta:g}", one.dots, one.judging) for name, one in shown.items()]
    low = next(one for one in sweeps["DDSPO"] if one.judging.mass < 0.1)
    panels.append(panel(f"DDSPO, beta {low.beta:g}: too small", low.dots, low.judging))
    curves = []
    for name in CURVES:
        points = [(one.beta, one.judging.mass) for one in sweeps[name] if one.beta is not None]
        auto = autos[name]
        curves.append(Curve(name, points, None if auto.beta is None else (auto.beta, auto.judging.mass)))
    return draw(panels, curves, reference.mass)


def main() -> None:
    """Parse arguments, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sweep", action="store_true", help="find every method's best beta again")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="trainings side by side")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # tensors are small: a second thread costs more than it brings
    began, seeds = time.monotonic(), range(arguments.seeds)
    reference = measure(noise_prediction, seed=JUDGING)

    def carry_out(cells: list[Cell]) -> dict[Cell, Found]:
        return carry_out_all(cells, arguments.workers)

    best, sweeps = best_betas(list(METHODS) if arguments.sweep else list(CURVES), carry_out)
    wanted = []
    for name, method in METHODS.items():
        wanted.append((name, best.get(name, method.best)))
        if method.auto and (arguments.sweep or name in CURVES):
            wanted.append((name, "auto"))
    found = carry_out([Cell(name, beta, seed) for name, beta in wanted for seed in seeds])
    rows = [
        over_seeds(name, beta == "auto", [found[Cell(name, beta, seed)] for seed in seeds]) for name, beta in wanted
    ]
    shown = {name: found[Cell(name, beta)] for name, beta in wanted if name in SHOWN and beta != "auto"}
    autos = {name: found[Cell(name, "auto")] for name in CURVES}
    text = table(reference, rows)
    write_text(arguments.out / "mixture.svg", figure(reference, shown, sweeps, autos))
    write_text(arguments.out / "table.md", text)
    tried = {name: [{"beta": one.beta, **asdict(one.judging)} for one in some] for name, some in sweeps.items()}
    write_json(arguments.out / "results.json", {"reference": asdict(reference), "rows": rows, "sweeps": tried})
    print(text)
    print(f"{time.monotonic() - began:.0f} s, {arguments.out / 'mixture.svg'}")


if __name__ == "__main__":
    main()
