"""Recipes as files: load one by path or by bundled name, lay overrides over it, write it back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from .errors import UserError
from .overrides import apply_override, describe_validation_error, merged, nearest, parse_yaml
from .recipe import Recipe

_RESERVED = ("policy", "reference", "negative_prompt")
"""names of models that are no baselines"""
_BATCH_SIZES = ("global_batch_pairs", "micro_batch_pairs")
BUNDLED = Path(__file__).parent / "recipes"


def bundled_recipes() -> list[str]:
    """Names of the recipes that come with the package; each may stand where a recipe file may."""
    return sorted(path.stem for path in BUNDLED.glob("*.yaml"))


def load_recipe(path_or_name: str | Path, overrides: Sequence[str] = (), *, output: str | Path | None = None) -> Recipe:
    """A checked recipe.

    Args:
        path_or_name: a YAML file, or the name of a bundled recipe ('tinyscenes').
        overrides: 'a.b=c', applied in order; values are YAML.
        output: the run folder; stands above the file and the overrides.

    Raises:
        UserError: no such recipe, an empty or malformed file, an unknown key or a wrong value; one line that names the
            place and the mend.
    """
    path = _find(path_or_name)
    data = _read(path)
    for override in overrides:
        apply_override(data, override)
    if output is not None:
        data["output"] = str(output)
    data = {
        key: value for key, value in data.items() if value is not None
    }  # a section whose lines are all commented out
    data.setdefault("name", path.stem)
    if "output" not in data:
        name = str(data["name"])
        if name in ("", "..") or name != Path(name).name:
            raise UserError(f"{path_or_name}: name '{name}' cannot name a folder in runs/; change it, or set output")
        data["output"] = f"runs/{name}"
    _share_batch_sizes(data)
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{path_or_name}: {describe_validation_error(error, Recipe)}") from error
    for name in recipe.baselines:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or name in _RESERVED:
            mend = f"use letters, digits, - and _, and none of {', '.join(_RESERVED)}"
            raise UserError(f"{path_or_name}: baselines.{name}: not a usable name; {mend}")
        baseline_recipe(recipe, name)
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as resolved, every field spelled out, as YAML that `load_recipe` reads back to an equal recipe.

    Baselines keep only what they change, since the rest follows the main run.
    """
    data = recipe.model_dump(mode="json")
    data["baselines"] = {
        name: baseline.model_dump(mode="json", exclude_unset=True) for name, baseline in recipe.baselines.items()
    }
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)


def baseline_recipe(recipe: Recipe, name: str) -> Recipe:
    """The whole recipe of one baseline: the main run's, with what the baseline sets laid over it, and no baselines.

    A baseline that names another objective takes over nothing of the main run's: beta, anchors and the like are numbers
    of that objective, so those that the baseline leaves out are its own objective's published ones. Of another target
    source only the space of errors is taken over.

    Raises:
        UserError: the recipe has no such baseline, or the combination is not valid.
    """
    if name not in recipe.baselines:
        known = ", ".join(recipe.baselines) or "none"
        raise UserError(f"the recipe has no baseline {name!r}; it has: {known}")
    data = recipe.model_dump()
    changes = recipe.baselines[name].model_dump(exclude_unset=True)
    if (changes.get("objective") or {}).get("name", recipe.objective.name) != recipe.objective.name:
        data["objective"] = {}  # another objective's numbers mean something else; its own defaults hold
    if (changes.get("target") or {}).get("source", recipe.target.source) != recipe.target.source:
        data["target"] = {"error_space": recipe.target.error_space}
    data["training"]["reference_rows"] = None  # the main run's; those that ask the same may name the same folder
    data = merged(data, {key: value for key, value in changes.items() if value is not None})
    data["baselines"] = {}
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise UserError(f"baselines.{name}: {describe_validation_error(error, Recipe)}") from error


def _share_batch_sizes(data: dict[str, Any]) -> None:
    """Give a baseline that sets one batch size the main run's other one, because they are checked together."""
    main, baselines = data.get("training"), data.get("baselines")
    if not isinstance(main, dict) or not isinstance(baselines, dict):
        return
    for baseline in baselines.values():
        section = baseline.get("training") if isinstance(baseline, dict) else None
        if isinstance(section, dict) and any(key in section for key in _BATCH_SIZES):
            baseline["training"] = {**{key: main[key] for key in _BATCH_SIZES if key in main}, **section}


def _find(path_or_name: str | Path) -> Path:
    text = str(path_or_name)
    path = Path(text)
    if path.is_file():
        return path
    if path.is_dir():
        if (path / "recipe.yaml").is_file():
            return path / "recipe.yaml"
        raise UserError(f"{text} is a folder without recipe.yaml; give a recipe file or a bundled name")
    if path.suffix not in (".yaml", ".yml") and (BUNDLED / f"{path.name}.yaml").is_file() and path.name == text:
        return BUNDLED / f"{text}.yaml"
    if close := nearest(text, bundled_recipes()):
        raise UserError(f"{text}: no such recipe; did you mean {close}?")
    raise UserError(
        f"{text}: no such file, and no bundled recipe of that name (there are: {', '.join(bundled_recipes())})"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8; a recipe is YAML") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    data = parse_yaml(text, str(path))
    if data is None:
        raise UserError(f"{path} is empty; copy a bundled recipe to start from: ddspo align tinyscenes --dry-run")
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise UserError(f"{path}: expected sections with keys (training:, evaluation:, ...), found {_kind(data)}")
    return data


def _kind(value: Any) -> str:
    names: dict[type, str] = {list: "a list", str: "plain text", dict: "keys that are not text"}
    return names.get(type(value), f"the value {value!r}")
