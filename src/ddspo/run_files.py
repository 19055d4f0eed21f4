"""What lies where in a run's folder, and what its stages have cost."""

from __future__ import annotations

from pathlib import Path

from .files import read_json
from .ledger import FILE_NAME as COST_FILE
from .recipe import Recipe
from .recipe_file import baseline_recipe
from .target_recipes import SIDES, target_trainings

DEGRADED = "degraded.jsonl"
PAIRS = "pairs"
TARGETS = "targets"
POLICY_RUN = "policy_run"
BASELINES = "baselines"
SCORES = "scores"


def total_costs(recipe: Recipe, run: Path) -> dict[str, dict[str, float]]:
    """{stage: {"seconds", "network_evaluations"}} of the stages that have a cost file, and their sum as "total"."""
    places = {
        "degrade": run / "degraded.cost.json",
        "pairs": run / PAIRS / COST_FILE,
        "contrast": run / PAIRS / "contrast.cost.json",
    }
    for name in dict.fromkeys(target_trainings(recipe).values()):
        places |= {f"{role} model of {name}": run / TARGETS / name / role / COST_FILE for role in SIDES}
    trainings = [recipe, *(baseline_recipe(recipe, name) for name in recipe.baselines)]
    rows = dict.fromkeys(own.training.reference_rows for own in trainings if own.training.reference_rows)
    places |= {"reference rows" if len(rows) == 1 else f"rows in {folder}": folder / COST_FILE for folder in rows}
    places["train"] = run / POLICY_RUN / COST_FILE
    places |= {f"baseline {name}": run / BASELINES / name / COST_FILE for name in recipe.baselines}
    places["evaluate"] = run / SCORES / COST_FILE
    costs = {name: read_json(path) for name, path in places.items() if path.is_file()}
    costs["total"] = {
        unit: round(sum(cost[unit] for cost in costs.values()), 3) for unit in ("seconds", "network_evaluations")
    }
    return costs
