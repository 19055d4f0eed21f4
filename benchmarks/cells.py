"""What studies share: cells run side by side as processes, pictures of one model judged once, tables with intervals."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ddspo.evaluation.evaluate import open_work
from ddspo.files import read_json, write_json
from ddspo.recipe import Recipe


def run_side_by_side(cells: Sequence[str], command: Callable[[str], list[str]], workers: int, logs: Path) -> None:
    """Run every cell as a process with one thread, `workers` at a time; what they say goes to `logs/CELL.log`.

    Raises:
        SystemExit: a cell failed, with the end of its log; cells under way are finished first.
    """
    logs.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    failed: list[str] = []

    def run(cell: str) -> None:
        if failed:
            return
        print(f"cell {cell}", file=sys.stderr, flush=True)
        log = logs / f"{cell}.log"
        with log.open("w", encoding="utf-8") as file:
            done = subprocess.run(command(cell), env=environment, stdout=file, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            failed.append(f"cell {cell} failed:\n" + "\n".join(log.read_text(encoding="utf-8").splitlines()[-15:]))

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, cells))
    if failed:
        raise SystemExit("\n".join(failed))


def judge(recipe: Recipe, name: str, policy: Path | None, folder: Path) -> None:
    """Draw and score one model alone (None: the base) in `folder`; other models with this recipe get the same seeds."""
    if (folder / "judged.json").exists():
        return
    work = open_work(recipe, folder)
    work.claim(name, policy)
    work.complete({name: policy})
    scores: dict[str, list[float]] = {}
    for row in work.ordered_rows([name])[name]:
        scores.setdefault(row["id"], []).append(row["score"])
    rows = [{"prompt": r.prompt, "category": r.meta.get("category"), "scores": scores[r.id]} for r in work.records]
    write_json(folder / "judged.json", rows)


def judged(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(scores [prompts, pictures], categories [prompts]) of a judged model."""
    rows = read_json(folder / "judged.json")
    return np.array([row["scores"] for row in rows]), np.array([str(row["category"]) for row in rows])


def percent(difference: Any) -> str:
    """'+3.1 [+0.8, +5.4]' in percentage points."""
    return f"{100 * difference.mean:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
