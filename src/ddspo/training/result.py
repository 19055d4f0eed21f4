"""The end of a run: the policy for diffusers, its model card, the costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..families.load import EMBEDDED
from ..files import read_json
from ..ledger import FILE_NAME, Ledger
from ..recipe import Recipe
from .metrics import last_row

if TYPE_CHECKING:
    from ..families.roles import Roles
    from .optimizer import MovingAverage

POLICY_FOLDER = "policy"


@dataclass(frozen=True)
class TrainSummary:
    """What a finished run left.

    Attributes:
        policy: the folder that diffusers loads.
        steps: optimizer steps.
        metrics: the last row of metrics.jsonl.
        cost: {"seconds", "network_evaluations"}.
    """

    policy: Path
    steps: int
    metrics: dict[str, Any]
    cost: dict[str, float]


def finished(output: Path) -> bool:
    """Whether the run in this folder has its policy, which is written last."""
    return (output / POLICY_FOLDER).exists()


def summarize(output: Path) -> TrainSummary:
    """What a finished run left."""
    metrics = last_row(output / "metrics.jsonl")
    return TrainSummary(output / POLICY_FOLDER, metrics["step"], metrics, read_json(output / FILE_NAME))


def save_result(
    recipe: Recipe, output: Path, roles: Roles, average: MovingAverage | None, ledger: Ledger, pairs: int
) -> None:
    """Write cost.json, then policy/ (the moving average if there is one) with its model card."""
    ledger.save(output)
    card = model_card(recipe, last_row(output / "metrics.jsonl"), ledger.as_dict(), pairs, kind=roles.kind)
    roles.save_policy(output / POLICY_FOLDER, card, weights=average.average if average is not None else None)


def model_card(recipe: Recipe, metrics: dict[str, Any], cost: dict[str, float], pairs: int, *, kind: str) -> str:
    """README.md of the policy: how it was made, how to load it, what is not known about it."""
    training, base = recipe.training, recipe.model.base
    what = "LoRA weights" if kind == "lora" else "A full pipeline"
    objective = (
        "plain fine-tuning on the winning pictures"
        if recipe.objective.name == "denoising"
        else f"-log sigmoid(margin), beta {_beta(recipe, metrics)}, target source `{recipe.target.source}`"
    )
    rows = [
        ("objective", objective),
        (
            "pairs",
            f"{pairs}, drawn by the base from `{recipe.prompts.source}` (degradation: {recipe.degradation.method})",
        ),
        ("steps", f"{training.max_steps} of {training.global_batch_pairs} pairs"),
        ("optimizer", f"AdamW, learning rate {training.optimizer.learning_rate:g}, {training.optimizer.schedule}"),
        ("precision", f"mixed {training.mixed_precision}, frozen parts {recipe.model.frozen_dtype}"),
        ("average", "none" if training.ema_decay is None else f"moving average, decay {training.ema_decay:g}"),
        ("seed", str(recipe.seed)),
        ("cost", f"{cost['network_evaluations']:.0f} network evaluations, {cost['seconds']:.0f} s"),
    ]
    if "stopped" in metrics:
        rows.append(("early end", metrics["stopped"]))
    scalars = [(name, f"{value:.6g}") for name, value in metrics.items() if isinstance(value, float)]
    return "\n".join(
        [
            "---",
            "library_name: diffusers",
            f"base_model: {base}",
            "tags: [ddspo, text-to-image, preference-optimization]",
            "---",
            f"# {recipe.name}",
            "",
            f"{what} trained from `{base}` with ddspo",
            "(Direct Diffusion Score Preference Optimization, arXiv 2512.23426).",
            "",
            "```python",
            "from diffusers import DiffusionPipeline",
            "",
            *_loading(base, kind),
            "```",
            "",
            *_table("training", rows),
            "",
            *_table("last step", scalars),
            "",
            "License: these weights derive from the base model, whose license applies. ddspo does not know which one",
            "that is; look it up before you pass them on.",
            "",
        ]
    )


def _beta(recipe: Recipe, metrics: dict[str, Any]) -> str:
    last = f"{metrics['beta']:g} at the last step, " if "beta" in metrics else ""
    return last + recipe.objective.beta_words


def _loading(base: str, kind: str) -> list[str]:
    if kind == "full":
        return ['pipeline = DiffusionPipeline.from_pretrained("path/to/policy")']
    if base == EMBEDDED:
        return [
            "import tinyscenes",
            "",
            "pipeline = DiffusionPipeline.from_pretrained(tinyscenes.pipeline_folder())",
            'pipeline.load_lora_weights("path/to/policy")',
        ]
    return [f'pipeline = DiffusionPipeline.from_pretrained("{base}")', 'pipeline.load_lora_weights("path/to/policy")']


def _table(title: str, rows: list[tuple[str, str]]) -> list[str]:
    return [f"| {title} | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
