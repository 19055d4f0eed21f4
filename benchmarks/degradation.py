"""Which degradations buy how much alignment in which category, at equal cost, on tinyscenes.

    python benchmarks/degradation.py runs/degradation [--seeds 3] [--workers 2] [--kinds removal,drop_color,mixture]

An arm is one way to degrade: random removal of words, one kind of edit alone, or the mixture of all kinds. Every arm
gets as many pairs, as many steps and so as many network evaluations; only the degraded prompts differ. (A kind that
fits few prompts reuses those with new noise, so its arm sees other prompts too: that is part of choosing a kind.)

1. Every arm makes its pairs and measures their contrast. 2. Every strength is trained with seed 0 and judged on
validation prompts; with one strength this is left out. 3. The best strength of each arm is trained with every seed and
judged on held-out prompts. The table has crossed bootstrap intervals over training seeds and prompts, per category.

Cells are processes of one thread, `--workers` side by side. Everything is resumable: run the same command again. Writes
OUT/table.md and OUT/results.json.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cells import judge, judged, percent, run_side_by_side, table

from ddspo.evaluation.statistics import Difference, compare_over_seeds
from ddspo.files import content_id, read_json, write_json, write_text
from ddspo.pairs.build import build_pairs
from ddspo.pairs.contrast import measure_contrast
from ddspo.prompts.degrade import degrade_prompts
from ddspo.prompts.sources import read_prompts
from ddspo.recipe import Recipe
from ddspo.recipe_file import load_recipe
from ddspo.training.loop import train
from tinyscenes.edits import EDITS

ARMS: dict[str, tuple[str, ...]] = {
    "removal": ("degradation.method=removal",),
    "removal_content": ("degradation.method=removal", "degradation.remove_units=content_words"),
    **{kind: ("degradation.method=scenes", f"degradation.kinds=[{kind}]") for kind in EDITS},
    "mixture": ("degradation.method=scenes", "degradation.kinds=[]"),
}
REFERENCE = "reference"


@dataclass(frozen=True)
class Study:
    """One output folder and what is done in it."""

    out: Path
    overrides: tuple[str, ...]
    heldout_overrides: tuple[str, ...]
    arms: tuple[str, ...]
    knob: str
    strengths: tuple[float, ...]
    seeds: int

    def recipe(self, arm: str, *extra: str) -> Recipe:
        """The demo's recipe with an arm's degraded prompts."""
        fixed = ("pairs.contrast_draws=4", "training.preview_every_steps=null")
        return load_recipe("tinyscenes", [*self.overrides, *fixed, *ARMS.get(arm, ()), *extra])

    def pairs(self, arm: str) -> Path:
        """Where an arm's pairs lie."""
        return self.out / "arms" / arm / "pairs"

    def run_folder(self, arm: str, strength: float, seed: int) -> Path:
        """Where a training lies."""
        return self.out / "arms" / arm / f"{strength:g}-seed{seed}"

    def judged_folder(self, where: str, arm: str, strength: float = 0.0, seed: int = 0) -> Path:
        """Where its pictures are judged."""
        place = "reference" if arm == REFERENCE else f"{arm}-{strength:g}-seed{seed}"
        extra = f"-{content_id(*self.heldout_overrides)}" if where == "heldout" and self.heldout_overrides else ""
        return self.out / f"{where}{extra}" / place

    def do(self, cell: str) -> None:
        """Carry out one cell: 'pairs/ARM', 'train/ARM/STRENGTH/SEED' or 'judge/WHERE/ARM[/STRENGTH/SEED]'."""
        stage, *rest = cell.split("/")
        if stage == "pairs":
            self._make_pairs(rest[0])
        elif stage == "train":
            arm, strength, seed = rest[0], float(rest[1]), int(rest[2])
            recipe = self.recipe(arm, f"{self.knob}={strength:g}", f"seed={seed}")
            train(recipe, self.pairs(arm), self.run_folder(arm, strength, seed))
        else:
            where, arm, strength, seed = rest[0], rest[1], float((rest[2:] or ["0"])[0]), int((rest[3:] or ["0"])[0])
            folder = self.judged_folder(where, arm, strength, seed)
            policy = None if arm == REFERENCE else self.run_folder(arm, strength, seed) / "policy"
            judge(self._judging(where), folder.name, policy, folder)

    def _make_pairs(self, arm: str) -> None:
        recipe, folder = self.recipe(arm), self.pairs(arm)
        prompts = recipe.prompts
        records = read_prompts(prompts.source, prompts.column, prompts.limit, recipe.seed)
        degraded = folder.with_name("degraded.jsonl")
        degrade_prompts(recipe.degradation, records, degraded, recipe.seed)
        build_pairs(recipe, degraded, folder)
        measure_contrast(recipe, folder)

    def _judging(self, where: str) -> Recipe:
        """Validation prompts are training's and held-out prompts' neither: strengths are chosen on them alone."""
        if where == "validation":
            return self.recipe("mixture", "evaluation.prompts=tinyscenes:validation", "evaluation.images_per_prompt=1")
        return self.recipe("mixture", "evaluation.prompts=tinyscenes:heldout", *self.heldout_overrides)

    def is_done(self, cell: str) -> bool:
        """Whether a cell needs no process any more."""
        stage, *rest = cell.split("/")
        if stage == "pairs":
            return (self.pairs(rest[0]) / "contrast.cost.json").exists()
        if stage == "train":
            return (self.run_folder(rest[0], float(rest[1]), int(rest[2])) / "policy").is_dir()
        numbers = (float(rest[2]), int(rest[3])) if len(rest) > 2 else ()
        return (self.judged_folder(rest[0], rest[1], *numbers) / "judged.json").exists()

    def best(self) -> dict[str, float]:
        """The strength of each arm with the highest share of exact validation pictures."""
        if len(self.strengths) == 1:
            return dict.fromkeys(self.arms, self.strengths[0])
        score = {
            (arm, value): judged(self.judged_folder("validation", arm, value, 0))[0].mean()
            for arm in self.arms
            for value in self.strengths
        }
        return {arm: max(self.strengths, key=lambda value: score[arm, value]) for arm in self.arms}

    def differences(self, arm: str, strength: float) -> tuple[np.ndarray, np.ndarray]:
        """(arm minus reference [seeds, prompts, pictures], categories [prompts]) on held-out prompts."""
        base, categories = judged(self.judged_folder("heldout", REFERENCE))
        grids = [judged(self.judged_folder("heldout", arm, strength, seed))[0] for seed in range(self.seeds)]
        return np.stack(grids) - base, categories


def run(study: Study, workers: int, arguments: list[str]) -> dict[str, float]:
    """All cells; the chosen strengths."""

    def command(cell: str) -> list[str]:
        return [sys.executable, __file__, *arguments, "--cell", cell.replace(":", "/")]

    def carry_out(cells: list[str]) -> None:
        missing = [cell.replace("/", ":") for cell in cells if not study.is_done(cell)]
        run_side_by_side(missing, command, workers, study.out / "logs")

    carry_out([f"pairs/{arm}" for arm in study.arms])
    if len(study.strengths) > 1:
        sweep = [f"{arm}/{value:g}/0" for arm in study.arms for value in study.strengths]
        carry_out([f"train/{one}" for one in sweep])
        carry_out([f"judge/validation/{one}" for one in sweep])
    best = study.best()
    final = [f"{arm}/{best[arm]:g}/{seed}" for arm in study.arms for seed in range(study.seeds)]
    carry_out([f"train/{one}" for one in final])
    carry_out([f"judge/heldout/{REFERENCE}", *(f"judge/heldout/{one}" for one in final)])
    return best


def report(study: Study, best: dict[str, float]) -> tuple[str, dict[str, object]]:
    """The table, and the same numbers for machines."""
    base, categories = judged(study.judged_folder("heldout", REFERENCE))
    names = list(dict.fromkeys(categories.tolist()))
    removal = study.differences("removal", best["removal"])[0] if "removal" in study.arms else None
    head = ["degradation", study.knob.rsplit(".", 1)[-1], "contrast", "prompts", "exact", "minus base, 95 %"]
    head += [*(["minus removal, 95 %"] if removal is not None else []), *names]
    of_base = [f"{100 * base[categories == name].mean():.0f}" for name in names]
    blank = [""] if removal is not None else []
    rows = [["base", "", "", "", f"{100 * base.mean():.1f} %", "", *blank, *of_base]]
    results: dict[str, object] = {}
    for arm in study.arms:
        gains, _ = study.differences(arm, best[arm])
        overall, costs = compare_over_seeds(gains), read_json(study.run_folder(arm, best[arm], 0) / "cost.json")
        by_category = {name: compare_over_seeds(gains[:, categories == name]) for name in names}
        contrasts = [v for f in study.pairs(arm).glob("contrast-*.json") for v in read_json(f)["contrast"].values()]
        summary = read_json(study.pairs(arm).with_name("degraded.settings.json"))["summary"]
        cells = [arm, f"{best[arm]:g}", f"{np.median(contrasts):.2g}", str(summary["written"])]
        cells += [f"{100 * (base.mean() + overall.mean):.1f} %", percent(overall)]
        if removal is not None:
            cells.append("" if arm == "removal" else percent(compare_over_seeds(gains - removal)))
        rows.append([*cells, *(percent(by_category[name]) for name in names)])
        results[arm] = {
            "strength": best[arm],
            "median_contrast": float(np.median(contrasts)),
            "prompts": summary["written"],
            "training_cost": costs,
            "overall": _numbers(overall),
            "categories": {name: _numbers(difference) for name, difference in by_category.items()},
        }
    return table(head, rows), {"base": float(base.mean()), "arms": results}


def _numbers(difference: Difference) -> dict[str, float]:
    return {**difference.as_dict()}


def main() -> None:
    """Parse arguments; run one cell, or all of them and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="processes side by side, one thread each")
    parser.add_argument("--kinds", default=",".join(ARMS), help=f"arms, by comma: {', '.join(ARMS)}")
    parser.add_argument("--pairs", type=int, default=640)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--base", default="tinyscenes")
    parser.add_argument("--knob", default="objective.anchor", help="the field that is the strength")
    parser.add_argument("--strengths", default="0.05,0.1,0.2", help="values tried on validation prompts, by comma")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="A.B=C")
    parser.add_argument(
        "--heldout-set", action="append", default=[], metavar="A.B=C", help="for the last pictures only"
    )
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    given = parser.parse_args()
    arms = tuple(given.kinds.split(","))
    for arm in arms:
        if arm not in ARMS:
            parser.error(f"--kinds: '{arm}' is unknown; known: {', '.join(ARMS)}")
    own = [f"model.base={given.base}", f"pairs.count={given.pairs}", f"training.max_steps={given.steps}"]
    study = Study(
        given.out,
        (*own, *given.overrides),
        tuple(given.heldout_set),
        arms,
        given.knob,
        tuple(float(value) for value in given.strengths.split(",")),
        given.seeds,
    )
    if given.cell:
        return study.do(given.cell)
    text, results = report(study, run(study, given.workers, sys.argv[1:]))
    write_text(given.out / "table.md", text + "\n")
    write_json(given.out / "results.json", results)
    print(text)


if __name__ == "__main__":
    main()
