"""Base, fine-tuning on winners, Diffusion-DPO and DDSPO on the same pairs, for the same network evaluations.

    python benchmarks/alignment.py runs/alignment [--seeds 3] [--base FOLDER]

1. One set of pairs is made. 2. Every method sweeps its own strength (beta; the anchor where there is one; the rate for
fine-tuning) with training seed 0 and is judged on validation prompts: training prompts with other noise. 3. The best of
each is trained again with every seed and judged on held-out prompts. The table has crossed bootstrap intervals over
seeds and prompts.

Everything is resumable. Writes OUT/table.md and OUT/results.json.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cells import percent

from ddspo.evaluation.evaluate import EvaluationSummary, evaluate
from ddspo.evaluation.statistics import compare_over_seeds
from ddspo.files import content_id, read_jsonl, write_json, write_text
from ddspo.pairs.build import build_pairs
from ddspo.prompts.degrade import degrade_prompts
from ddspo.prompts.sources import read_prompts
from ddspo.recipe import Recipe
from ddspo.recipe_file import load_recipe
from ddspo.training.loop import train

BUDGET_PAIRS = 9  # what DDSPO spends on a pair, in F; the others get more steps until they have spent as much


@dataclass(frozen=True)
class Method:
    """One contender: what it changes in the recipe, what it costs per pair, and the strengths it tries."""

    overrides: tuple[str, ...]
    evaluations_per_pair: int
    knob: str
    values: tuple[float, ...]


_PUBLISHED = ("objective.anchor=0", "training.optimizer.learning_rate=5e-4")
METHODS = {
    "sft": Method(
        ("target.source=forward_noise", "objective.name=denoising", "objective.anchor=0"),
        3,
        "training.optimizer.learning_rate",
        (3e-5, 1e-4, 3e-4),
    ),
    "diffusion_dpo": Method((*_PUBLISHED, "target.source=forward_noise"), 8, "objective.beta", (200, 1000, 5000)),
    "ddspo": Method((*_PUBLISHED, "target.source=training_free"), 9, "objective.beta", (200, 1000, 5000)),
    "ddspo_anchored": Method(("target.source=training_free",), 9, "objective.anchor", (0.05, 0.1, 0.2)),
}


class Benchmark:
    """One output folder."""

    def __init__(self, out: Path, overrides: list[str], heldout_overrides: list[str]) -> None:
        self.out, self.overrides, self.heldout_overrides = out, overrides, heldout_overrides
        self.base = load_recipe("tinyscenes", overrides)

    def recipe(self, method: Method, value: float, seed: int) -> Recipe:
        """The demo's recipe with this method, at the same total of network evaluations."""
        steps = round(self.base.training.max_steps * BUDGET_PAIRS / method.evaluations_per_pair)
        return load_recipe(
            "tinyscenes",
            [
                *self.overrides,
                *method.overrides,
                f"{method.knob}={value}",
                f"seed={seed}",
                f"training.max_steps={steps}",
                "training.preview_every_steps=null",
                f"training.checkpoint_every_steps={steps}",
            ],
        )

    def make_pairs(self) -> Path:
        """Degraded prompts and pairs, once, with the recipe's own seed."""
        degraded = self.out / "degraded.jsonl"
        prompts = self.base.prompts
        records = read_prompts(prompts.source, prompts.column, prompts.limit, self.base.seed)
        degrade_prompts(self.base.degradation, records, degraded, self.base.seed)
        build_pairs(self.base, degraded, self.out / "pairs")
        return self.out / "pairs"

    def policy(self, name: str, value: float, seed: int) -> Path:
        """Train if need be; the policy's folder."""
        folder = self.out / "training" / f"{name}-{value:g}-seed{seed}"
        return train(self.recipe(METHODS[name], value, seed), self.out / "pairs", folder).policy

    def judge(self, policies: dict[str, Path], where: str) -> EvaluationSummary:
        """'validation' or 'heldout'."""
        if where == "validation":
            extra = ["evaluation.prompts=tinyscenes:train", "evaluation.limit=210", "evaluation.images_per_prompt=1"]
        else:
            extra = self.heldout_overrides
            where = f"heldout-{content_id(*extra)}" if extra else where
        return evaluate(load_recipe("tinyscenes", [*self.overrides, *extra]), policies, self.out / where)

    def sweep(self) -> dict[str, dict[float, dict[str, Any]]]:
        """Every method at every strength on validation prompts, training seed 0."""
        policies = {
            f"{name}-{value:g}": self.policy(name, value, 0)
            for name, method in METHODS.items()
            for value in method.values
        }
        models = self.judge(policies, "validation").models
        return {
            name: {value: models[f"{name}-{value:g}"] for value in method.values} for name, method in METHODS.items()
        }

    def final(self, best: dict[str, float], seeds: int) -> tuple[EvaluationSummary, dict[str, np.ndarray]]:
        """Every method at its best strength, every seed, on held-out prompts; scores[method][seed, prompt, picture]."""
        policies = {
            f"{name}-seed{seed}": self.policy(name, best[name], seed) for name in METHODS for seed in range(seeds)
        }
        summary = self.judge(policies, "heldout")
        scores: dict[str, list[float]] = {}
        for row in read_jsonl(summary.folder / "scores.jsonl"):
            scores.setdefault(row["model"], []).append(row["score"])
        prompts = summary.results["prompts"]
        grids = {model: np.array(values).reshape(prompts, -1) for model, values in scores.items()}
        stacked = {name: np.stack([grids[f"{name}-seed{seed}"] for seed in range(seeds)]) for name in METHODS}
        return summary, {"reference": grids["reference"][None], **stacked}


def final_table(summary: EvaluationSummary, scores: dict[str, np.ndarray], best: dict[str, float], seeds: int) -> str:
    """Markdown: a row per method."""
    models = summary.models
    categories = list(models["reference"]["categories"])
    lines = [
        "| method | strength | exact | minus base, 95 % | minus Diffusion-DPO, 95 % | Fréchet | "
        + " | ".join(categories)
        + " |",
        "|" + "---|" * (6 + len(categories)),
    ]
    for name, grid in scores.items():
        runs = ["reference"] if name == "reference" else [f"{name}-seed{seed}" for seed in range(seeds)]
        against = {
            other: compare_over_seeds(grid - scores[other]) for other in ("reference", "diffusion_dpo") if other != name
        }
        frechet = [models[run]["frechet"] for run in runs]
        cells = [
            "base" if name == "reference" else name,
            "" if name == "reference" else f"{METHODS[name].knob.rsplit('.', 1)[-1]} {best[name]:g}",
            f"{100 * grid.mean():.1f} %",
            "" if name == "reference" else percent(against["reference"]),
            "" if name in ("reference", "diffusion_dpo") else percent(against["diffusion_dpo"]),
            f"{np.mean(frechet):.2f} ({min(frechet):.2f} to {max(frechet):.2f})",
            *(f"{100 * np.mean([models[run]['categories'][c]['mean'] for run in runs]):.0f}" for c in categories),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def sweep_table(sweep: dict[str, dict[float, dict[str, Any]]]) -> str:
    """Markdown: a row per method and strength."""
    lines = ["| method | strength | exact (validation) | minus base, 95 % |", "|---|---|---|---|"]
    for name, values in sweep.items():
        for value, model in values.items():
            difference = model["difference"]
            interval = (
                f"{100 * difference['mean']:+.1f} [{100 * difference['low']:+.1f}, {100 * difference['high']:+.1f}]"
            )
            lines.append(f"| {name} | {value:g} | {100 * model['overall']['mean']:.1f} % | {interval} |")
    return "\n".join(lines)


def main() -> None:
    """Parse arguments, run, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--base", default="tinyscenes")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="A.B=C")
    parser.add_argument(
        "--heldout-set",
        action="append",
        default=[],
        metavar="A.B=C",
        help="for the held-out pictures only: judge the policies of the same sweep otherwise, in a folder of its own",
    )
    arguments = parser.parse_args()
    benchmark = Benchmark(arguments.out, [f"model.base={arguments.base}", *arguments.overrides], arguments.heldout_set)
    benchmark.make_pairs()
    sweep = benchmark.sweep()
    best = {name: max(values, key=lambda value: values[value]["overall"]["mean"]) for name, values in sweep.items()}
    print(sweep_table(sweep))
    summary, scores = benchmark.final(best, arguments.seeds)
    table = final_table(summary, scores, best, arguments.seeds)
    write_text(arguments.out / "table.md", f"{sweep_table(sweep)}\n\n{table}\n")
    write_json(arguments.out / "results.json", {"best": best, "heldout": json.loads(json.dumps(summary.models))})
    print(table)


if __name__ == "__main__":
    main()
