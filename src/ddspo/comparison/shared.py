"""What cells share beside their pairs: reference rows of equal draws, and the two models of data-driven targets.

OUTPUT/reference_rows/KEY/     made once for all cells that ask the reference the same at every step
OUTPUT/target_models/KEY/      winning/ and losing/, trained once with the base recipe's seed
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..files import content_id
from ..method_facts import asks_reference, target_of, trained_target_models, unstorable
from ..recipe import Recipe
from ..target_recipes import target_model_recipe
from ..training.result import POLICY_FOLDER
from .cells import Cell

ROWS, MODELS = "reference_rows", "target_models"
# What the reference is asked follows from these; weights of losses and lengths of runs do not matter.
_TRAINING = ("global_batch_pairs", "micro_batch_pairs", "mixed_precision", "parameters", "caption_dropout", "compile")


@dataclass(frozen=True)
class Shared:
    """A folder to fill: of rows, for the longest of the runs that read them, or of target models."""

    recipe: Recipe
    pairs: Path
    folder: Path


def make_rows(task: Shared) -> None:
    """Make what is missing; at once where nothing is."""
    from ..training.reference_rows import make_reference_rows

    make_reference_rows(task.recipe, task.pairs, task.folder)


def make_models(task: Shared) -> None:
    """Train what is missing; at once where nothing is."""
    from ..training.target_models import train_target_models

    train_target_models(task.recipe, task.pairs, task.folder)


def rows_key(recipe: Recipe) -> str | None:
    """Equal for runs that read the same rows; None where there is nothing frozen that could be stored."""
    if unstorable(recipe):
        return None
    settings = recipe.training.model_dump(mode="json", include={*_TRAINING, "timesteps"})
    settings["timesteps"].pop("weight")
    target = recipe.target.model_dump(mode="json", exclude={"guidance_weight"})
    return content_id(json.dumps([recipe.seed, target_of(recipe), target, asks_reference(recipe), settings]))


def with_shared(cells: Sequence[Cell], output: Path, base_seed: int) -> list[Cell]:
    """The cells with the folders that they share filled in; rows that only one run would read are not stored.

    Args:
        cells: all that the matrix will ever train, so that the same ones share whatever has run before.
        output: the comparison's folder.
        base_seed: of the target models, which are data like the pairs.
    """
    cells = [replace(cell, recipe=_with_models(cell.recipe, output, base_seed)) for cell in cells]
    keys = [rows_key(cell.recipe) if cell.trained else None for cell in cells]
    runs = {(key, cell.name) for key, cell in zip(keys, cells, strict=True)}
    shared = {key for key, _ in runs if key is not None and sum(other == key for other, _ in runs) > 1}
    return [
        replace(cell, recipe=_with_rows(cell.recipe, output / ROWS / str(key))) if key in shared else cell
        for key, cell in zip(keys, cells, strict=True)
    ]


def _with_rows(recipe: Recipe, folder: Path) -> Recipe:
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"reference_rows": folder})})


def _with_models(recipe: Recipe, output: Path, base_seed: int) -> Recipe:
    """`target.winning` and `target.losing` where training will have put them."""
    roles = trained_target_models(recipe)
    if not roles:
        return recipe
    folder = models_folder(recipe, output, base_seed)
    places = {str(role): folder / role / POLICY_FOLDER for role in roles}
    return recipe.model_copy(update={"target": recipe.target.model_copy(update=places)})


def models_folder(recipe: Recipe, output: Path, base_seed: int) -> Path:
    """Where the models of this recipe's targets lie: equal for recipes whose models are trained the same."""
    own = recipe.model_copy(update={"seed": base_seed})
    trained = [
        target_model_recipe(own, role).model_dump(mode="json", include={"seed", "model", "objective", "training"})
        for role in trained_target_models(own)
    ]
    return output / MODELS / content_id(json.dumps(trained))


def rows_tasks(cells: Sequence[Cell], pairs: Path) -> list[Shared]:
    """One task for every folder of rows that these cells read."""
    longest: dict[Path, Recipe] = {}
    for cell in cells:
        folder = cell.recipe.training.reference_rows
        if folder is None:
            continue
        if folder not in longest or cell.recipe.training.max_steps > longest[folder].training.max_steps:
            longest[folder] = cell.recipe
    return [Shared(recipe, pairs, folder) for folder, recipe in longest.items()]


def models_tasks(cells: Sequence[Cell], base: Recipe, pairs: Path, output: Path) -> list[Shared]:
    """One task for every pair of target models; `cells` as they are before `with_shared`."""
    found: dict[Path, Recipe] = {}
    for cell in cells:
        if trained_target_models(cell.recipe):
            folder = models_folder(cell.recipe, output, base.seed)
            found.setdefault(folder, cell.recipe.model_copy(update={"seed": base.seed}))
    return [Shared(recipe, pairs, folder) for folder, recipe in found.items()]
