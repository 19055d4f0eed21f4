"""The winning and the losing model of data-driven targets: one LoRA fitted to each side of the pairs, on one base.

Each is an ordinary training run with the denoising loss, so it resumes, checkpoints and counts its cost like any other:

    winning: |noise - network(x_t_win, t, c)|²        losing: |noise' - network(x_t_lose, t, c)|²

Both runs draw the same pairs and the same timesteps, each its own noise, as the released code does. That code trains
the two in one optimizer on the sum of the losses; as they share no parameter, two runs differ from it in one respect:
each gradient is clipped by its own norm. Two runs hold one adapter's gradients and moments at a time.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from ..families.lora_files import lora_digest
from ..method_facts import needs_target_models, trained_target_models
from ..recipe import Recipe
from ..target_recipes import SIDES, target_model_recipe
from .result import POLICY_FOLDER, finished


def train_target_models(recipe: Recipe, pairs: Path, folder: Path) -> Recipe:
    """Train the models that the recipe's targets need and does not name; the same call again resumes.

    Args:
        recipe: of the run that will be trained against them.
        pairs: a folder made by `build_pairs`.
        folder: receives winning/ and losing/, each a training run's folder.

    Returns:
        the recipe with `target.winning` and `target.losing` filled in.

    Raises:
        UserError: as `train`.
    """
    from .loop import train  # which reads `target_models` of every recipe it trains

    for role in trained_target_models(recipe):
        train(target_model_recipe(recipe, role), pairs, folder / role)
    return with_target_models(recipe, folder)


def with_target_models(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the models in `folder` filled in.

    Raises:
        UserError: one is not trained yet.
    """
    for role in trained_target_models(recipe):
        if not finished(folder / role):
            raise UserError(f"{folder / role} holds no model; make it with `ddspo targets`, or give target.{role}")
    places: dict[str, Path] = {role: folder / role / POLICY_FOLDER for role in trained_target_models(recipe)}
    return recipe.model_copy(update={"target": recipe.target.model_copy(update=places)})


def target_models(recipe: Recipe) -> dict[str, Path]:
    """Role -> LoRA, of a recipe that needs the two models; else {}.

    Raises:
        UserError: one is neither named nor trained.
    """
    if not needs_target_models(recipe):
        return {}
    if missing := trained_target_models(recipe):
        raise UserError(f"target.source data_driven: make the models with `ddspo targets`, or set target.{missing[0]}")
    return {role: Path(getattr(recipe.target, role)) for role in SIDES}


def target_settings(recipe: Recipe) -> dict[str, object]:
    """What a run's numbers depend on in its targets: of the two models what they are, not where they lie."""
    settings = recipe.target.model_dump(mode="json", exclude={"winning", "losing", "adapters"})
    return settings | {role: lora_digest(source) for role, source in target_models(recipe).items()}
