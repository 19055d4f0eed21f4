"""Every bundled recipe of a published run, against the table of published numbers (and the choice between sources)."""

from __future__ import annotations

import pytest

from ddspo.recipe import Recipe
from ddspo.recipe_file import bundled_recipes, load_recipe

# beta, effective batch, final learning rate, steps, warm-up, what is trained, precision, target, error space
TABLE: dict[str, tuple[object, ...]] = {
    "sd14_tf_cpp": (16000, 2048, 4e-5 / 16000 * 2048, 100, 100, "full", "fp16", "training_free", "native"),
    "sd15_tf_cpp": (16000, 2048, 4e-5 / 16000 * 2048, 100, 100, "full", "fp16", "training_free", "native"),
    "sd21_tf_cpp": (16000, 2048, 4e-5 / 16000 * 2048, 100, 100, "full", "fp16", "training_free", "native"),
    "sdxl_tf_cpp": (16000, 2048, 4e-5 / 16000 * 2048, 100, 100, "full", "fp16", "training_free", "native"),
    "sd3_tf_cpp": (2000, 2048, 4e-5 / 2000 * 2048, 100, 0, "lora", "fp16", "training_free", "x_0"),
    "sana_tf_cpp": (2000, 2048, 4e-5 / 2000 * 2048, 100, 0, "lora", "no", "training_free", "native"),
    "sd15_dd_cpp": (8000, 2048, 4e-5 / 8000 * 2048, 100, 100, "full", "fp16", "data_driven", "native"),
    "sdxl_dd_cpp": (8000, 2048, 4e-5 / 8000 * 2048, 100, 100, "full", "fp16", "data_driven", "native"),
    "sd15_diffusion_dpo": (5000, 2048, 1e-8 * 2048, 2000, 500, "full", "fp16", "forward_noise", "native"),
    "sdxl_diffusion_dpo": (5000, 2048, 1e-8 * 2048, 2000, 200, "full", "fp16", "forward_noise", "native"),
}
# steps and guidance of the pictures; sampler and weight of timesteps
PICTURES = {
    "sd14_tf_cpp": (25, 7.5),
    "sd15_tf_cpp": (25, 7.5),
    "sdxl_tf_cpp": (25, 5.0),
    "sd3_tf_cpp": (28, 5.0),
    "sana_tf_cpp": (20, 4.5),
}
TIMESTEPS = {
    "sdxl_tf_cpp": ("uniform", "linear"),
    "sdxl_dd_cpp": ("uniform", "linear"),
    "sd3_tf_cpp": ("logit_normal", "none"),
}


def numbers(recipe: Recipe) -> tuple[object, ...]:
    training = recipe.training
    return (
        recipe.objective.beta,
        training.global_batch_pairs,
        pytest.approx(training.optimizer.learning_rate),
        training.max_steps,
        training.optimizer.warmup_steps,
        training.parameters,
        training.mixed_precision,
        recipe.target.source,
        recipe.target.error_space,
    )


def test_the_table_is_complete() -> None:
    assert set(bundled_recipes()) - {"tinyscenes", "one_gpu"} == TABLE.keys()


@pytest.mark.parametrize("name", TABLE)
def test_published_numbers(name: str) -> None:
    recipe = load_recipe(name)
    assert TABLE[name] == numbers(recipe)
    optimizer = recipe.training.optimizer
    assert (optimizer.weight_decay, optimizer.max_gradient_norm, optimizer.schedule) == (0.01, 1.0, "constant")
    assert optimizer.name == ("adafactor" if name == "sdxl_diffusion_dpo" else "adamw")
    assert (optimizer.adam_betas, optimizer.adam_epsilon) == ((0.9, 0.999), 1e-8)
    timesteps = recipe.training.timesteps
    assert (timesteps.sampler, timesteps.weight) == TIMESTEPS.get(name, ("uniform", "none"))
    assert (timesteps.low, timesteps.high, timesteps.states) == (0.0, 1.0, "forward")
    if name in PICTURES:
        sampling = recipe.pairs.sampling
        assert (sampling.steps, sampling.guidance_scale) == PICTURES[name]
        assert (recipe.degradation.method, recipe.degradation.remove_low, recipe.degradation.remove_high) == (
            "removal",
            0.4,
            0.7,
        )
        assert recipe.pairs.count == recipe.prompts.limit == 200_000


def test_what_only_some_have() -> None:
    sana, sd3 = load_recipe("sana_tf_cpp").training.lora, load_recipe("sd3_tf_cpp").training.lora
    assert (sana.rank, sana.targets, sd3.rank, sd3.targets) == (512, ("to_q", "to_k", "to_v"), 128, ())
    assert load_recipe("sdxl_tf_cpp").training.gradient_checkpointing
    for name in ("sd15_dd_cpp", "sdxl_dd_cpp"):
        adapters = load_recipe(name).target.adapters
        assert (adapters.rank, adapters.alpha, adapters.learning_rate, adapters.max_steps) == (4, 4, 1e-4, 300)
        assert adapters.global_batch_pairs == 2048
    for name in bundled_recipes():
        if name.startswith(("sdxl", "sd3", "sana")):
            assert (load_recipe(name).model.height_px, load_recipe(name).model.width_px) == (1024, 1024)


@pytest.mark.parametrize("name", TABLE)
def test_no_published_run_draws_pairs_from_the_demos_prompts(name: str) -> None:
    """`ddspo align` of a recipe for imported pairs ends in one line, not after hours of drawing tinyscenes."""
    recipe = load_recipe(name)
    assert not recipe.prompts.source.startswith("tinyscenes:")
    assert recipe.evaluation.prompts == "evaluation_prompts.txt"
