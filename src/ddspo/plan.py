"""What a recipe will cost, before anything runs: network evaluations, disk and memory per stage.

F is one forward of the denoiser on one sample, a backward counts as 2F (`ledger.py`).

    make a pair              2 pictures · network calls per picture · (2 with guidance, else 1)
    train on a pair once     reference rows + 3 · policy rows (forward and backward; 4 · with gradient checkpointing):
                             training_free 3 + 3 · 2 = 9, forward_noise 2 + 3 · 2 = 8, denoising 0 + 3 · 1 = 3; every
                             objective and target: `method_facts`, and the table in `training.step`
    evaluate                 pictures · (reference and policies) · network calls per picture · (2 with guidance, else 1)
"""

from __future__ import annotations

import math
from pathlib import Path

from .base_facts import BaseFacts, read_base_facts
from .memory import BYTES, kept_bytes, trained_shapes
from .method_facts import (
    OBJECTIVES,
    TARGETS,
    frozen_rows,
    policy_rows,
    trained_target_models,
)
from .plan_notes import memory_notes, text_notes
from .plan_table import Plan as Plan
from .plan_table import StagePlan, count_text
from .recipe import Recipe, Sampling
from .recipe_file import baseline_recipe
from .stage_memory import drawing_bytes, judging_bytes, reading_bytes, training_peak
from .target_recipes import target_model_recipe, target_trainings

PICTURE_COMPRESSION = 0.7
"""a PNG of a generated picture takes about this share of its raw bytes"""


def make_plan(recipe: Recipe) -> Plan:
    """The plan of a whole run. Reads configuration files and headers, loads no weights, writes nothing."""
    notes: list[str] = []
    facts = read_base_facts(recipe.model)
    if facts is None:
        notes.append(
            f"model {recipe.model.base} is not on this machine yet: disk and memory are known after the download"
        )
    prompts = _trained_prompts(recipe, notes)
    pairs = recipe.pairs.count or prompts
    stages = [
        StagePlan("degrade", f"{count_text(prompts)} prompts, up to {recipe.degradation.variants} variants each"),
        _pairs_stage(recipe, facts, pairs),
        *_targets_stage(recipe, facts),
        *_rows_stages(recipe, facts),
        _training_stage(recipe, facts, "train"),
    ]
    for name in recipe.baselines:
        stages.append(_training_stage(baseline_recipe(recipe, name), facts, f"baseline {name}"))
    stages += [_evaluation_stage(recipe, facts, notes), StagePlan("report", "report.html, summary.json")]
    if facts is not None:
        notes += [*memory_notes(recipe, facts), *text_notes(recipe, facts, pairs)]
    epochs = recipe.training.max_steps * recipe.training.global_batch_pairs / pairs if pairs else None
    if epochs is not None:
        notes.append(f"training sees each pair {epochs:.2g} times")
    return Plan(recipe, stages, notes)


def _trained_prompts(recipe: Recipe, notes: list[str]) -> int | None:
    prompts = recipe.prompts
    if _is_missing(prompts.source):
        assumed = f"; {prompts.limit} assumed" if prompts.limit else ""
        notes.append(f"prompt file {prompts.source} does not exist yet{assumed}")
        return prompts.limit
    if prompts.limit is not None and not prompts.source.startswith("tinyscenes:"):
        return prompts.limit
    from .prompts.held_out import trained_part
    from .prompts.sources import read_prompts

    return len(read_prompts(prompts.source, prompts.column, prompts.limit, recipe.seed, trained_part(recipe)))


def _judged_prompts(recipe: Recipe, notes: list[str]) -> int | None:
    held_out = recipe.evaluation.prompts == "held_out"
    source = recipe.prompts.source if held_out else recipe.evaluation.prompts
    if _is_missing(source):
        notes.append(f"evaluation prompts {source} do not exist yet")
        return recipe.evaluation.limit
    from .evaluation.prompts import evaluation_prompts

    return len(evaluation_prompts(recipe))


def _is_missing(source: str) -> bool:
    return not source.startswith("tinyscenes:") and not Path(source).expanduser().exists()


def picture_cost(sampling: Sampling, facts: BaseFacts | None) -> int:
    """Denoiser rows for one picture; PNDM, the default sampler of many checkpoints, makes one call more than steps."""
    extra = 1 if facts and sampling.sampler == "default" and facts.scheduler == "PNDMScheduler" else 0
    return (sampling.steps + extra) * (2 if sampling.guidance_scale > 1 else 1)


def training_cost(recipe: Recipe) -> int:
    """F for one pair, trained on once, with the frozen rows, which stored ones save."""
    return frozen_rows(recipe) + policy_rows(recipe) * (4 if recipe.training.gradient_checkpointing else 3)


def measuring_cost(recipe: Recipe) -> int:
    """F for one pair when automatic beta measures it; forward noise is measured with the rows of training_free."""
    if recipe.objective.beta != "auto":
        return 0
    source = recipe.target.source
    return TARGETS["training_free" if source == "forward_noise" else source].rows


def _sampling_text(sampling: Sampling) -> str:
    return f"{sampling.steps} steps, guidance {sampling.guidance_scale:g}"


def _pairs_stage(recipe: Recipe, facts: BaseFacts | None, pairs: int | None) -> StagePlan:
    sampling = recipe.pairs.sampling
    latent = math.prod(facts.latent_shape(recipe.model)) * (1 + recipe.pairs.trajectory_states) if facts else None
    states = f", {recipe.pairs.trajectory_states} states a side" if recipe.pairs.trajectory_states else ""
    return StagePlan(
        "pairs",
        f"{count_text(pairs)} pairs, {_sampling_text(sampling)}{states}",
        None if pairs is None else 2 * pairs * (picture_cost(sampling, facts) + recipe.pairs.contrast_draws),
        None if pairs is None or latent is None else 2 * pairs * latent * BYTES[recipe.model.frozen_dtype],
        drawing_bytes(recipe, facts) if facts else None,
    )


def _method(recipe: Recipe) -> str:
    """'training_free, beta 16000', 'mapo, forward_noise, beta 0.1', 'denoising'."""
    objective = recipe.objective
    if OBJECTIVES[objective.name].beta is None:
        return objective.name
    name = "" if objective.name == "preference" else f"{objective.name}, "
    return f"{name}{recipe.target.source}, beta {objective.beta_words}"


def _training_stage(recipe: Recipe, facts: BaseFacts | None, name: str) -> StagePlan:
    training = recipe.training
    stored = training.reference_rows is not None
    cost = training_cost(recipe) - (frozen_rows(recipe) if stored else 0)
    method = _method(recipe)
    work = (
        f"{training.max_steps} steps x {training.global_batch_pairs} pairs x {cost}F, {training.parameters}, {method}"
        + (", stored reference rows" if stored else "")
    )
    samples = training.max_steps * training.global_batch_pairs
    evaluations = samples * cost + measuring_cost(recipe) * min(recipe.objective.auto.pairs, samples)
    if facts is None:
        return StagePlan(name, work, evaluations)
    disk = kept_bytes(recipe, trained_shapes(training, facts))
    return StagePlan(name, work, evaluations, disk, training_peak(recipe, facts))


def _rows_stages(recipe: Recipe, facts: BaseFacts | None) -> list[StagePlan]:
    """Making the stored reference rows of the main run and its baselines, each folder once, for its longest run."""
    runs = [recipe, *(baseline_recipe(recipe, name) for name in recipe.baselines)]
    longest: dict[Path, Recipe] = {}
    for run in sorted(runs, key=lambda run: run.training.max_steps):
        if run.training.reference_rows is not None:
            longest[run.training.reference_rows] = run
    stages = []
    for run in longest.values():
        training = run.training
        rows = training.max_steps * training.global_batch_pairs * frozen_rows(run)
        work = f"{training.max_steps} steps x {training.global_batch_pairs} pairs x {frozen_rows(run)} rows, made once"
        disk = None if facts is None else rows * 4 * math.prod(facts.latent_shape(run.model))
        memory = None if facts is None else reading_bytes(run, facts)
        stages.append(StagePlan("reference rows", work, rows, disk, memory))
    return stages


def _targets_stage(recipe: Recipe, facts: BaseFacts | None) -> list[StagePlan]:
    """The winning and losing models of all trainings that make them, one model in memory at a time; [] without any."""
    trainings = list(dict.fromkeys(target_trainings(recipe).values()))
    models = [
        _training_stage(target_model_recipe(own, role), facts, "targets")
        for own in (recipe if name == "policy" else baseline_recipe(recipe, name) for name in trainings)
        for role in trained_target_models(own)
    ]
    if not models:
        return []
    works = ", ".join(dict.fromkeys(f"{model.work} on one side" for model in models))
    return [
        StagePlan(
            "targets",
            f"{len(models)} models: {works}",
            sum(model.network_evaluations or 0 for model in models),
            sum(model.disk_bytes or 0 for model in models) if facts else None,
            max(model.memory_bytes or 0 for model in models) if facts else None,
        )
    ]


def _evaluation_stage(recipe: Recipe, facts: BaseFacts | None, notes: list[str]) -> StagePlan:
    evaluation = recipe.evaluation
    prompts = _judged_prompts(recipe, notes)
    models = 2 + len(recipe.baselines) + evaluation.negative_prompt_baseline
    drawing = _sampling_text(evaluation.sampling)
    work = f"{count_text(prompts)} prompts x {evaluation.images_per_prompt} x {models} models, {drawing}"
    if prompts is None:
        return StagePlan("evaluate", work, None)
    pictures = prompts * evaluation.images_per_prompt * models
    disk = memory = None
    if facts:
        height, width = facts.picture_px(recipe.model)
        disk = int(pictures * height * width * 3 * PICTURE_COMPRESSION)
        memory = judging_bytes(recipe, facts)
    return StagePlan("evaluate", work, pictures * picture_cost(evaluation.sampling, facts), disk, memory)
