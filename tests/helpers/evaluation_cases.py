"""A base, policies and a recipe of tinyscenes prompts: what tests of the evaluation stage start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddspo.families.load import load_family
from ddspo.families.roles import Roles
from ddspo.recipe import Lora, Recipe
from ddspo.rng import normal_like_shape

PROMPTS = {
    "a red circle": "color",
    "two blue squares": "numeracy",
    "a green cross": "color",
    "a cyan triangle and a red cross": "color",
    "three yellow circles": "numeracy",
}


def policy_of(base: Path, folder: Path, strength: float) -> Path:
    """A LoRA policy; strength 0 changes nothing."""
    family = load_family(str(base))
    roles = Roles.lora(family, Lora(rank=2), seed=0)
    state = roles.state()
    for name, tensor in state.items():
        if "lora_B" in name:
            state[name] = strength * normal_like_shape(tuple(tensor.shape), 0, name)
    roles.load_state(state)
    roles.save_policy(folder)
    return folder


def recipe_for(home: Path, **evaluation: Any) -> Recipe:
    settings = {
        "prompts": str(home / "prompts.jsonl"),
        "images_per_prompt": 2,
        "sampling": {"steps": 2, "guidance_scale": 3.0, "batch_images": 4},
        "bootstrap_samples": 200,
    }
    model = {"base": str(home / "base"), "height_px": 32, "width_px": 32}
    return Recipe.model_validate({"seed": 5, "model": model, "evaluation": settings | evaluation})
