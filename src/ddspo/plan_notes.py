"""What a plan says of memory and stored texts below its table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .base_facts import BaseFacts
from .memory import BYTES, training_memory
from .method_facts import needs_degraded_prompts, unstorable
from .recipe import Recipe
from .stage_memory import decoding_bytes, drawing_bytes, text_bytes, training_peak


def memory_notes(recipe: Recipe, facts: BaseFacts) -> list[str]:
    """The peak of training by part, what would make it smaller, and what would make drawing pairs smaller."""
    return [
        f"peak memory of train: {training_memory(recipe, facts).text()}{_beside(recipe, facts)}",
        *_smaller(recipe, facts),
        *_drawing(recipe, facts),
    ]


def _drawing(recipe: Recipe, facts: BaseFacts) -> list[str]:
    """What `model.offload` would save while pairs are drawn, where no other stage needs as much."""
    one_at_a_time = recipe.model_copy(update={"model": recipe.model.model_copy(update={"offload": True})})
    now, least = drawing_bytes(recipe, facts), drawing_bytes(one_at_a_time, facts)
    if now <= training_peak(recipe, facts) or now - least < 1e9:
        return []
    together = f"weights while pairs are drawn: denoiser and text encoders together {now / 1e9:.1f} GB"
    return [f"{together}; with model.offload one at a time, {least / 1e9:.1f} GB"]


def _beside(recipe: Recipe, facts: BaseFacts) -> str:
    """What comes on top of a step, or decides in its place: text encoders, and a preview's picture."""
    text, most = text_bytes(recipe, facts), training_peak(recipe, facts)
    if recipe.training.text == "encoded":
        return f", and text encoders {text / 1e9:.2f} GB"
    if most == training_memory(recipe, facts).total:
        return ""
    if most == text:
        return f"; text encoders, which read all prompts before it, take more: {most / 1e9:.2f} GB"
    decoding = f"decoding {decoding_bytes(recipe, facts) / 1e9:.2f} GB beside weights and optimizer"
    return f"; a preview takes more: {most / 1e9:.2f} GB, {decoding} (training.preview_every_steps null: none)"


def _smaller(recipe: Recipe, facts: BaseFacts) -> list[str]:
    """What full fine-tuning would hold with everything that saves memory, where the recipe leaves something out."""
    training = recipe.training
    if training.parameters != "full":
        return []
    savers: dict[str, Any] = {"trained_dtype": "bf16", "mixed_precision": "bf16", "gradient_checkpointing": True}
    if unstorable(recipe) is None:
        savers["reference_rows"] = training.reference_rows or Path("rows")
    if training.optimizer.name == "adamw":
        savers["optimizer"] = training.optimizer.model_copy(update={"name": "adamw_8bit"})
    left_out = [name for name, value in savers.items() if getattr(training, name) != value]
    if not left_out:
        return []
    least = training_memory(recipe.model_copy(update={"training": training.model_copy(update=savers)}), facts)
    names = {"optimizer": "optimizer.name adamw_8bit", "reference_rows": "reference_rows"}
    told = ", ".join(names.get(name, f"{name} {str(savers[name]).lower()}") for name in left_out)
    return [f"with training.{told} it would be {least.total / 1e9:.1f} GB"]


def text_notes(recipe: Recipe, facts: BaseFacts, pairs: int | None) -> list[str]:
    """Disk for stored text embeddings, where it is worth a line: with T5 it may be far more than the pairs."""
    if recipe.training.text == "encoded":
        return ["text encoders stay while training (training.text encoded)"]
    if pairs is None:
        return []
    used = min(pairs, recipe.training.max_steps * recipe.training.global_batch_pairs)
    prompts = used * (2 if needs_degraded_prompts(recipe) else 1)
    size = prompts * facts.text_numbers * BYTES[recipe.model.frozen_dtype]
    if size <= 1e8:
        return []
    told = f"text embeddings of up to {prompts} prompts: {size / 1e9:.1f} GB beside the pairs"
    return [f"{told}; none with training.text encoded"]
