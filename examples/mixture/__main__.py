"""Every objective on the mixture of Gaussians: measures, the toy figure, and where beta is safe.

    python -m examples.mixture runs/mixture               under a minute on one thread: every objective at its best beta
    python -m examples.mixture runs/mixture --sweep --seeds 5      all betas, and the best of each over several seeds

Writes OUT/mixture.svg, OUT/results.json and OUT/table.md.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student_t

from ddspo.files import write_json, write_text

from .figure import Curve, Panel, draw, true_samples
from .training import METHODS, Trained, train
from .world import MODES, Measures, measure, noise_prediction, sample

CHOOSING, JUDGING = 4, 5
"""seeds of the samples that choose a beta, and of those that judge it"""
SHOWN, CURVES = ("Diffusion-DPO", "DSPO", "DDSPO"), ("Diffusion-DPO", "DDSPO")
DOTS = 480


def run(name: str, beta: float | str | None, seeds: int, judged: int = JUDGING) -> dict[str, Any]:
    """Train with every seed and measure; means with 95 % intervals (Student's t) over seeds."""
    trained = [train(METHODS[name], beta, seed) for seed in range(seeds)]
    found = [measure(one.policy, seed=judged) for one in trained]
    values = {field: [getattr(one, field) for one in found] for field in Measures.__dataclass_fields__}
    return {
        "method": name,
        "beta": trained[0].beta,
        "auto": beta == "auto",
        "seeds": seeds,
        "drift": _mean([one.drift for one in trained]),
        **{field: interval(numbers) for field, numbers in values.items()},
        "_policies": trained,
    }


def interval(values: list[float]) -> dict[str, float]:
    """{"mean", "low", "high"}; without width for one value."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return {"mean": mean, "low": mean, "high": mean}
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    reach = float(student_t.ppf(0.975, len(values) - 1)) * deviation / math.sqrt(len(values))
    return {"mean": mean, "low": mean - reach, "high": mean + reach}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def best_betas(names: list[str]) -> tuple[dict[str, float | None], dict[str, list[dict[str, Any]]]]:
    """(best beta of each by mass, all that was tried), one seed, on samples of their own."""
    tried = {name: [run(name, beta, 1, CHOOSING) for beta in METHODS[name].betas] for name in names}
    best = {
        name: max(rows, key=lambda row: row["mass"]["mean"])["beta"] if rows else None for name, rows in tried.items()
    }
    return best, tried


def table(reference: Measures, rows: list[dict[str, Any]]) -> str:
    """Markdown."""

    def cell(value: dict[str, float]) -> str:
        spread = f" [{value['low']:.3f}, {value['high']:.3f}]" if value["high"] > value["low"] else ""
        return f"{value['mean']:.3f}{spread}"

    lines = [
        "| method | beta | mass within 3 deviations | accuracy | mode bias | spread | drift / contrast |",
        "|" + "---|" * 7,
    ]
    plain = asdict(reference)
    lines.append(
        "| reference | | " + " | ".join(f"{plain[k]:.3f}" for k in ("mass", "accuracy", "bias", "spread")) + " | |"
    )
    for row in rows:
        beta = "" if row["beta"] is None else f"{row['beta']:g}"
        cells = [row["method"], f"auto ({beta})" if row["auto"] else beta]
        cells += [cell(row[key]) for key in ("mass", "accuracy", "bias", "spread")]
        lines.append("| " + " | ".join([*cells, "" if row["drift"] is None else f"{row['drift']:.2f}"]) + " |")
    return "\n".join(lines) + "\n"


def panel(title: str, trained: Trained | None, measures: Measures | None) -> Panel:
    """Samples of a policy; of the reference without one."""
    condition = torch.arange(DOTS) % MODES
    x_t = torch.randn(DOTS, 2, generator=torch.Generator().manual_seed(JUDGING))
    predict = noise_prediction if trained is None else trained.policy
    note = "" if measures is None else f"accuracy {measures.accuracy:.2f}, mass {measures.mass:.2f}"
    return Panel(title, note, sample(predict, condition, x_t), condition)


def figure(reference: Measures, rows: list[dict[str, Any]], sweeps: dict[str, list[dict[str, Any]]]) -> str:
    """The toy figure from what was measured."""
    panels = [
        Panel("what is asked for", "one mode per condition", *true_samples(DOTS)),
        panel("reference", None, reference),
    ]
    for name in SHOWN:
        row = next(row for row in rows if row["method"] == name and not row["auto"])
        one = row["_policies"][0]
        panels.append(panel(f"{name}, beta {row['beta']:g}", one, measure(one.policy)))
    low = next(row for row in sweeps["DDSPO"] if row["mass"]["mean"] < 0.1)
    panels.append(
        panel(f"DDSPO, beta {low['beta']:g}: too small", low["_policies"][0], measure(low["_policies"][0].policy))
    )
    curves = []
    for name in CURVES:
        auto = next((row for row in rows if row["method"] == name and row["auto"]), None)
        points = [(row["beta"], row["mass"]["mean"]) for row in sweeps[name]]
        curves.append(Curve(name, points, (auto["beta"], auto["mass"]["mean"]) if auto else None))
    return draw(panels, curves, reference.mass)


def main() -> None:
    """Parse arguments, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sweep", action="store_true", help="find every method's best beta again")
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began, reference = time.monotonic(), measure(noise_prediction)
    best, sweeps = best_betas(list(METHODS) if arguments.sweep else list(CURVES))
    rows = []
    for name, method in METHODS.items():
        rows.append(run(name, best.get(name, method.best), arguments.seeds))
        if method.auto and (arguments.sweep or name in CURVES):
            rows.append(run(name, "auto", arguments.seeds))
    text = table(reference, rows)
    write_text(arguments.out / "mixture.svg", figure(reference, rows, sweeps))
    write_text(arguments.out / "table.md", text)
    everything = {"reference": asdict(reference), "rows": rows, "sweeps": sweeps}
    write_json(arguments.out / "results.json", without_policies(everything))
    print(text)
    print(f"{time.monotonic() - began:.0f} s, {arguments.out / 'mixture.svg'}")


def without_policies(value: Any) -> Any:
    """The same nest of dictionaries and lists, without the networks."""
    if isinstance(value, dict):
        return {key: without_policies(inner) for key, inner in value.items() if key != "_policies"}
    return [without_policies(inner) for inner in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
