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
from dataclasses import dataclass, field, replace
from pathlib import Path

from .base_facts import BaseFacts, read_base_facts
from .errors import UserError
from .method_facts import OBJECTIVES, TARGETS, frozen_rows, policy_rows, trained_target_models
from .recipe import Recipe, Sampling, Training
from .recipe_file import baseline_recipe, dump_recipe
from .target_recipes import target_model_recipe, target_trainings

_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_PICTURE_COMPRESSION = 0.7
"""a PNG of a generated picture takes about this share of its raw bytes"""


@dataclass(frozen=True)
class StagePlan:
    """One stage; None where it cannot be known yet."""

    name: str
    work: str
    network_evaluations: int | None = 0
    disk_bytes: int | None = None
    memory_bytes: int | None = None
    """weights, gradients and optimizer state; activations come on top"""


@dataclass(frozen=True)
class Plan:
    """All stages of a recipe, and what the numbers leave open."""

    recipe: Recipe
    stages: list[StagePlan]
    notes: list[str] = field(default_factory=list)

    @property
    def network_evaluations(self) -> int | None:
        """Over all stages, or None when one is unknown."""
        costs = [stage.network_evaluations for stage in self.stages]
        return None if None in costs else sum(cost for cost in costs if cost is not None)

    def only(self, *names: str) -> Plan:
        """The same plan with these stages alone.

        Raises:
            UserError: there is no such stage.
        """
        known = {stage.name: stage for stage in self.stages}
        for name in names:
            if name not in known:
                raise UserError(f"the recipe has no stage {name!r}; it has: {', '.join(known)}")
        return replace(self, stages=[known[name] for name in names])

    def text(self) -> str:
        """The resolved recipe and a table of the stages."""
        rows = [("stage", "evaluations (F)", "disk", "memory", "work")]
        rows += [
            (s.name, _count(s.network_evaluations), _size(s.disk_bytes), _size(s.memory_bytes), s.work)
            for s in self.stages
        ]
        if len(self.stages) > 1:
            disk = sum(stage.disk_bytes for stage in self.stages if stage.disk_bytes is not None)
            rows.append(("total", _count(self.network_evaluations), _size(disk), "", ""))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ["# recipe as resolved", dump_recipe(self.recipe).rstrip(), "", f"# plan for {self.recipe.output}"]
        for name, cost, space, memory, work in rows:
            line = f"{name:<{widths[0]}}  {cost:>{widths[1]}}  {space:>{widths[2]}}  {memory:>{widths[3]}}  {work}"
            lines.append(line.rstrip())
        lines.append(
            "F: one forward of the denoiser on one sample; a backward counts as 2F. Memory: without activations."
        )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def make_plan(recipe: Recipe) -> Plan:
    """The plan of a whole run. Reads configuration files and headers, loads no weights, writes nothing."""
    notes: list[str] = []
    facts = read_base_facts(recipe.model)
    if facts is None:
        notes.append(
            f"model {recipe.model.base} is not on this machine yet: disk and memory are known after the download"
        )
    prompts = _prompt_count(recipe, notes)
    pairs = recipe.pairs.count or prompts
    stages = [
        StagePlan("degrade", f"{_count(prompts)} prompts, up to {recipe.degradation.variants} variants each"),
        _pairs_stage(recipe, facts, pairs),
        *_targets_stage(recipe, facts),
        _training_stage(recipe, facts, "train"),
    ]
    for name in recipe.baselines:
        stages.append(_training_stage(baseline_recipe(recipe, name), facts, f"baseline {name}"))
    stages += [_evaluation_stage(recipe, facts, notes), StagePlan("report", "report.html, summary.json")]
    epochs = recipe.training.max_steps * recipe.training.global_batch_pairs / pairs if pairs else None
    if epochs is not None:
        notes.append(f"training sees each pair {epochs:.2g} times")
    return Plan(recipe, stages, notes)


def _prompt_count(recipe: Recipe, notes: list[str]) -> int | None:
    prompts = recipe.prompts
    embedded = prompts.source.startswith("tinyscenes:")
    if not embedded and not Path(prompts.source).exists():
        notes.append(
            f"prompt file {prompts.source} does not exist yet" + (f"; {prompts.limit} assumed" if prompts.limit else "")
        )
        return prompts.limit
    if prompts.limit is not None and not embedded:
        return prompts.limit
    from .prompts.sources import read_prompts

    return len(read_prompts(prompts.source, prompts.column, prompts.limit, recipe.seed))


def _evaluation_prompt_count(recipe: Recipe, notes: list[str]) -> int | None:
    evaluation = recipe.evaluation
    if not evaluation.prompts.startswith("tinyscenes:") and not Path(evaluation.prompts).exists():
        notes.append(f"evaluation prompts {evaluation.prompts} do not exist yet")
        return evaluation.limit
    from .prompts.sources import read_prompts

    return len(read_prompts(evaluation.prompts, evaluation.column, evaluation.limit, recipe.seed))


def picture_cost(sampling: Sampling, facts: BaseFacts | None) -> int:
    """Denoiser rows for one picture; PNDM, the default sampler of many checkpoints, makes one call more than steps."""
    extra = 1 if facts and sampling.sampler == "default" and facts.scheduler == "PNDMScheduler" else 0
    return (sampling.steps + extra) * (2 if sampling.guidance_scale > 1 else 1)


def training_cost(recipe: Recipe) -> int:
    """F for one pair, trained on once."""
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
    latent = math.prod(facts.latent_shape(recipe.model)) if facts else None
    return StagePlan(
        "pairs",
        f"{_count(pairs)} pairs, {_sampling_text(sampling)}",
        None if pairs is None else 2 * pairs * (picture_cost(sampling, facts) + recipe.pairs.contrast_draws),
        None if pairs is None or latent is None else 2 * pairs * latent * _BYTES[recipe.model.frozen_dtype],
        facts.parameters * _BYTES[recipe.model.frozen_dtype] if facts else None,
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
    cost = training_cost(recipe)
    method = _method(recipe)
    work = (
        f"{training.max_steps} steps x {training.global_batch_pairs} pairs x {cost}F, {training.parameters}, {method}"
    )
    samples = training.max_steps * training.global_batch_pairs
    evaluations = samples * cost + measuring_cost(recipe) * min(recipe.objective.auto.pairs, samples)
    if facts is None:
        return StagePlan(name, work, evaluations)
    trained = trained_parameters(training, facts)
    averages = 1 if training.ema_decay is not None else 0
    checkpoint = 4 * trained * (3 + averages)
    frozen = facts.parameters * _BYTES[recipe.model.frozen_dtype]
    if not frozen_rows(recipe) and training.parameters == "full":
        frozen = 0
    checkpoints = min(training.keep_checkpoints, math.ceil(training.max_steps / training.checkpoint_every_steps))
    return StagePlan(
        name, work, evaluations, checkpoints * checkpoint + 4 * trained, frozen + 4 * trained * (4 + averages)
    )


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


def trained_parameters(training: Training, facts: BaseFacts) -> int:
    """How many numbers are trained: all of the denoiser, or rank · (inputs + outputs) for each adapted layer."""
    if training.parameters == "full":
        return facts.parameters
    return training.lora.rank * facts.lora_width(training.lora.targets)


def _evaluation_stage(recipe: Recipe, facts: BaseFacts | None, notes: list[str]) -> StagePlan:
    evaluation = recipe.evaluation
    prompts = _evaluation_prompt_count(recipe, notes)
    models = 2 + len(recipe.baselines)
    drawing = _sampling_text(evaluation.sampling)
    work = f"{_count(prompts)} prompts x {evaluation.images_per_prompt} x {models} models, {drawing}"
    if prompts is None:
        return StagePlan("evaluate", work, None)
    pictures = prompts * evaluation.images_per_prompt * models
    disk = memory = None
    if facts:
        height, width = facts.picture_px(recipe.model)
        disk = int(pictures * height * width * 3 * _PICTURE_COMPRESSION)
        memory = facts.parameters * 4
    return StagePlan("evaluate", work, pictures * picture_cost(evaluation.sampling, facts), disk, memory)


def _count(number: int | None) -> str:
    if number is None:
        return "?"
    return f"{number:,}" if number < 10_000_000 else f"{number / 1e6:,.1f}M"


def _size(size: int | None) -> str:
    if size is None:
        return ""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size} B"
