"""Read what a run folder holds. Whatever is absent or unreadable becomes a sentence in `missing`, never a failure."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..files import read_json, read_jsonl
from ..ledger import FILE_NAME as COST_FILE

REFERENCE = "reference"
POLICY = "policy"
TONES = 5
"""colors for baselines in the style sheet"""


@dataclass(frozen=True)
class StageCost:
    """What one stage cost; None where its cost file does not say."""

    name: str
    seconds: float | None
    network_evaluations: float | None


@dataclass
class RunData:
    """A run folder in memory. Empty fields mean that the stage has not run; `missing` tells so in words."""

    run: Path
    recipe_text: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    scores: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """rows of metrics.jsonl by model name, the policy first"""
    betas: dict[str, dict[str, Any]] = field(default_factory=dict)
    """beta.json by model name, of runs with automatic beta"""
    costs: list[StageCost] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The recipe's name, or the folder's."""
        return str(self.recipe.get("name") or self.run.resolve().name)

    @property
    def scores_folder(self) -> Path:
        """Where the evaluation lies; names of pictures are relative to it."""
        return self.run / "scores"

    @property
    def models(self) -> dict[str, dict[str, Any]]:
        """Evaluated models: reference, policy, then baselines in the order of the file."""
        models = self.evaluation.get("models")
        known = (
            {str(name): value for name, value in models.items() if isinstance(value, dict)}
            if isinstance(models, dict)
            else {}
        )
        first = [name for name in (REFERENCE, POLICY) if name in known]
        return {name: known[name] for name in [*first, *(name for name in known if name not in first)]}

    @property
    def tones(self) -> dict[str, str]:
        """The color class of every model, the same in all charts; beyond `TONES` baselines, colors come again."""
        others = sorted({*self.models, *self.metrics} - {REFERENCE, POLICY})
        return {REFERENCE: REFERENCE, POLICY: POLICY} | {
            name: f"baseline-{i % TONES + 1}" for i, name in enumerate(others)
        }

    def setting(self, *keys: str) -> Any:
        """A value of the recipe, or None: `setting("objective", "beta")`."""
        value: Any = self.recipe
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value


def _read_map(path: Path, data: RunData, without: str) -> dict[str, Any]:
    """A JSON object, or {} and a note that says what the report lacks without it."""
    try:
        value = read_json(path)
    except UserError as error:
        data.missing.append(f"{without}: {_local(error, data)}")
        return {}
    if not isinstance(value, dict):
        data.missing.append(f"{without}: {path.relative_to(data.run)} does not hold a JSON object")
        return {}
    return value


def _read_rows(path: Path, data: RunData, without: str) -> list[dict[str, Any]]:
    """Rows up to the first unreadable line: a run that is being written, or was killed, ends in a torn one."""
    rows: list[dict[str, Any]] = []
    try:
        rows.extend(read_jsonl(path))
    except (UserError, UnicodeDecodeError) as error:
        told = f"{_local(error, data)}; the {len(rows)} rows before it are shown" if rows else _local(error, data)
        data.missing.append(f"{without}: {told}")
    return rows


def _local(error: Exception, data: RunData) -> str:
    """The message without the run folder's own path, which is long and says nothing here."""
    return str(error).replace(f"{data.run}/", "")


def _read_recipe(data: RunData) -> None:
    path = data.run / "recipe.yaml"
    try:
        data.recipe_text = path.read_text(encoding="utf-8")
        recipe = yaml.safe_load(data.recipe_text)
    except (OSError, UnicodeDecodeError):
        data.missing.append("No recipe: recipe.yaml does not exist or cannot be read")
    except yaml.YAMLError as error:
        data.missing.append(f"Recipe shown as text only: recipe.yaml is not valid YAML ({type(error).__name__})")
    else:
        data.recipe = recipe if isinstance(recipe, dict) else {}


def finite(value: Any) -> float | None:
    """The value as a float if it is a finite number (JSON may hold null, NaN, or a string), else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < float("inf") else None


def _read_costs(data: RunData, baselines: list[str]) -> None:
    places = [
        ("degrade", data.run / "degraded.cost.json"),
        ("degrade", data.run / "degraded.summary.json"),
        ("pairs", data.run / "pairs" / COST_FILE),
        ("contrast", data.run / "pairs" / "contrast.cost.json"),
        *(
            (f"{role} model of {name}", data.run / "targets" / name / role / COST_FILE)
            for name in _subfolders(data.run / "targets")
            for role in _subfolders(data.run / "targets" / name)
        ),
        ("train", data.run / "policy_run" / COST_FILE),
        *((f"baseline {name}", data.run / "baselines" / name / COST_FILE) for name in baselines),
        ("evaluate", data.scores_folder / COST_FILE),
    ]
    for name, path in places:
        if not path.exists() or any(cost.name == name for cost in data.costs):
            continue
        _add_cost(data, name, _read_map(path, data, f"No cost of stage '{name}'"))
    if (data.run / "costs.json").exists():  # stored reference rows may lie anywhere
        totals = _read_map(data.run / "costs.json", data, "No costs of stored reference rows")
        for name, cost in totals.items():
            if name == "reference rows" or name.startswith("rows in "):
                _add_cost(data, name, cost if isinstance(cost, dict) else {})


def _add_cost(data: RunData, name: str, cost: dict[str, Any]) -> None:
    seconds, evaluations = finite(cost.get("seconds")), finite(cost.get("network_evaluations"))
    if seconds is not None or evaluations is not None:
        data.costs.append(StageCost(name, seconds, evaluations))


def _subfolders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _note_gaps(data: RunData, baselines: list[str]) -> None:
    notes: list[tuple[bool, str]] = [
        (not (data.run / "degraded.jsonl").exists(), "No degraded prompts yet: degraded.jsonl does not exist"),
        (not (data.run / "pairs").is_dir(), "No pairs yet: the folder pairs does not exist"),
        (not baselines, "No baselines: the recipe asks for none, or they have not run"),
    ]
    models = data.models
    if models:
        without = [name for name, model in models.items() if finite(model.get("frechet")) is None]
        notes.append((bool(without), f"No Fréchet distance for {', '.join(without)}"))
        absent = [name for name in baselines if name not in models]
        notes.append((bool(absent), f"Trained but not evaluated: {', '.join(absent)}"))
    data.missing += [note for applies, note in notes if applies]


def load_run(run: Path) -> RunData:
    """Read a run folder.

    Raises:
        UserError: `run` is not a folder, or holds nothing of a run.
    """
    if not run.is_dir():
        raise UserError(f"{run} is not a folder; give the run folder that `ddspo align` made, such as runs/demo")
    data = RunData(run)
    parts = ("recipe.yaml", "degraded.jsonl", "pairs", "policy_run", "scores")
    if not any((run / part).exists() for part in parts):
        raise UserError(f"{run} holds no run (none of {', '.join(parts)}); give the folder that `ddspo align` made")
    _read_recipe(data)
    _read_first(data, "environment.json", "policy_run/environment.json")
    baselines = _subfolders(run / "baselines")
    folders = {POLICY: run / "policy_run"} | {name: run / "baselines" / name for name in baselines}
    for name, folder in folders.items():
        rows = _read_rows(folder / "metrics.jsonl", data, f"No training curves of {name}")
        rows = [row for row in rows if finite(row.get("step")) is not None]
        if rows:
            data.metrics[name] = _last_attempt(rows)
        if (folder / "beta.json").exists():
            data.betas[name] = _read_map(folder / "beta.json", data, f"No words on how beta of {name} was chosen")
    data.evaluation = _read_map(data.scores_folder / "evaluation.json", data, "No verdict yet, nothing is evaluated")
    data.scores = _read_rows(data.scores_folder / "scores.jsonl", data, "No pictures to compare")
    _read_costs(data, baselines)
    _note_gaps(data, baselines)
    return data


def _read_first(data: RunData, *names: str) -> None:
    present = [data.run / name for name in names if (data.run / name).exists()]
    data.environment = _read_map(present[0] if present else data.run / names[0], data, "No environment")


def _last_attempt(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a step, in order; of steps that were done again after an interruption the last row counts."""
    by_step = {float(row["step"]): row for row in rows}
    return [by_step[step] for step in sorted(by_step)]
