"""What trains the winning and the losing model of data-driven targets, as recipes of their own; no torch here."""

from __future__ import annotations

from typing import Literal

from .method_facts import trained_target_models
from .recipe import Lora, Objective, Recipe, Target, Timesteps
from .recipe_file import baseline_recipe

Role = Literal["winning", "losing"]
SIDES: dict[Role, Literal["win", "lose"]] = {"winning": "win", "losing": "lose"}
"""role -> the side of a pair that its model learns from"""


def target_model_recipe(recipe: Recipe, role: Role) -> Recipe:
    """What trains one of the two models: the run's own settings, with rank, rate, steps and batch of `target.adapters`.

    Timesteps are drawn as in the run, so that the model is good where it will be asked; no weight, average or warm-up.
    """
    adapters, training = recipe.target.adapters, recipe.training
    forward = training.timesteps.states == "forward"
    changes = {
        "parameters": "lora",
        "trained_dtype": "fp32",
        "lora": Lora(rank=adapters.rank, alpha=adapters.alpha),
        "max_steps": adapters.max_steps,
        "global_batch_pairs": adapters.global_batch_pairs,
        "micro_batch_pairs": adapters.micro_batch_pairs,
        "optimizer": training.optimizer.model_copy(
            update={"learning_rate": adapters.learning_rate, "schedule": "constant", "warmup_steps": 0}
        ),
        "timesteps": training.timesteps.model_copy(update={"weight": "none"}) if forward else Timesteps(),
        "ema_decay": None,
        "reference_rows": None,
        "preview_every_steps": None,
        "preview_prompts": (),
    }
    own = recipe.model_copy(
        update={
            "name": f"{recipe.name}: {role} model",
            "target": Target(),
            "objective": Objective(name="denoising", side=SIDES[role]),
            "training": training.model_copy(update=changes),
            "baselines": {},
        }
    )
    return Recipe.model_validate(own.model_dump())


def target_trainings(recipe: Recipe) -> dict[str, str]:
    """'policy' or baseline -> the first of them that needs the same two models, for all that train such models."""
    shared: dict[str, str] = {}
    made: list[tuple[list[Recipe], str]] = []
    for name in ("policy", *recipe.baselines):
        own = recipe.model_copy(update={"baselines": {}}) if name == "policy" else baseline_recipe(recipe, name)
        wanted = [
            target_model_recipe(own, role).model_copy(update={"name": role}) for role in trained_target_models(own)
        ]
        if wanted:
            made.append((wanted, name))
            shared[name] = next(first for recipes, first in made if recipes == wanted)
    return shared
