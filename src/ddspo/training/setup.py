"""What happens before the first step: processes and device, the run's folder, checks of the pairs."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, GradientState

from ..environment import describe_environment
from ..errors import UserError
from ..families.lora_files import lora_digest
from ..files import claim_folder, file_fingerprint, require_free_space, write_json, write_text
from ..memory import checkpoint_bytes
from ..method_facts import OBJECTIVES, needs_degraded_prompts
from ..recipe import Recipe
from .result import finished
from .target_models import target_settings

if TYPE_CHECKING:
    from ..families.pipeline import PipelineFamily
    from ..pairs.store import PairStore

# These change neither the result (but for the order of float summation) nor what a checkpoint holds, so a run may go on
# with other values: a smaller micro batch after running out of memory, say.
_FREE = {
    "micro_batch_pairs",
    "reference_rows",
    "gradient_checkpointing",
    "checkpoint_every_steps",
    "keep_checkpoints",
    "preview_every_steps",
    "preview_prompts",
    "trackers",
}


def check_precision(recipe: Recipe, family: PipelineFamily | None = None) -> None:
    """Refuse what cannot be trained in the precision asked for; needs neither pairs nor weights.

    Raises:
        UserError: the device, the combination, or the family's network does not do it.
    """
    precision = recipe.training.mixed_precision
    if precision == "fp16" and _on_cpu():
        raise UserError("training.mixed_precision 'fp16' needs an accelerator; on a CPU use 'bf16' or 'no'")
    if (recipe.training.parameters, recipe.model.frozen_dtype, precision) == ("lora", "fp16", "no"):
        # Gradients go through the frozen layers, and only mixed precision scales the loss.
        raise UserError(
            "LoRA on model.frozen_dtype fp16 needs training.mixed_precision fp16: without its loss scaling, gradients "
            "vanish on their way through the base; or set both to bf16"
        )
    if family is not None and precision in family.autocast_refused:
        raise UserError(f"training.mixed_precision {precision}: {family.autocast_refused[precision]}")


def _on_cpu() -> bool:
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    return asked or not torch.accelerator.is_available()


def start_accelerator(recipe: Recipe, output: Path) -> Accelerator:
    """Device, processes and precision, from the launch (plain `python`, `torchrun`, `accelerate launch`).

    Raises:
        UserError: a launch that would train the same run several times over, a precision that the device lacks, or an
            unknown tracker.
    """
    check_precision(recipe)
    on_cpu, precision = _on_cpu(), recipe.training.mixed_precision
    AcceleratorState._reset_state()  # a second run in this process may ask for another precision
    GradientState._reset_state()
    try:
        accelerator = Accelerator(
            cpu=on_cpu,
            mixed_precision=precision,
            log_with=list(recipe.training.trackers) or None,
            project_dir=str(output / "trackers"),
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)],
        )
    except ValueError as error:
        raise UserError(f"training.mixed_precision or training.trackers: {error}") from error
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1 and accelerator.num_processes == 1:
        raise UserError(
            f"launched as {processes} processes but each would train alone; launch with "
            f"`torchrun --standalone --nproc-per-node {processes} -m ddspo ...`"
        )
    if accelerator.distributed_type.value not in ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU"):
        raise UserError(
            f"{accelerator.distributed_type.value} is not supported; launch with plain data parallelism (torchrun)"
        )
    if accelerator.num_processes > recipe.training.global_batch_pairs:
        raise UserError(
            f"{accelerator.num_processes} processes cannot share {recipe.training.global_batch_pairs} pairs "
            "(training.global_batch_pairs); use fewer processes or a larger batch"
        )
    if accelerator.device.type == "cpu":
        # accelerate names it by rank, and moving to 'cpu:1' copies weights that were mapped from their file: twice the
        # memory, and on some processors sums over a copy, which lies elsewhere, round otherwise than in one process.
        accelerator.state.device = torch.device("cpu")
    return accelerator


def run_settings(recipe: Recipe, store: PairStore) -> dict[str, Any]:
    """What a run's numbers depend on; a folder with other settings is another run."""
    training = {key: value for key, value in recipe.training.model_dump(mode="json").items() if key not in _FREE}
    training.pop("lora" if recipe.training.parameters == "full" else "trained_dtype")
    if OBJECTIVES[recipe.objective.name].across_pairs:
        training["micro_batch_pairs"] = recipe.training.micro_batch_pairs
    return {
        "seed": recipe.seed,
        "model": recipe.model.model_dump(mode="json", exclude={"height_px", "width_px", "offload", "lora"})
        | {"lora": [lora_digest(source) for source in recipe.model.lora]},
        "target": target_settings(recipe),
        "objective": recipe.objective.model_dump(mode="json"),
        "training": training,
        "pairs": pairs_identity(recipe, store),
    }


def pairs_identity(recipe: Recipe, store: PairStore) -> dict[str, Any]:
    """Which pairs: the index carries a checksum of every latent."""
    return {
        "count": len(store),
        **({"min_contrast": recipe.pairs.min_contrast} if recipe.pairs.min_contrast else {}),
        "index": file_fingerprint(sorted(store.folder.glob("shard-*.jsonl"))),
    }


def claim_output(recipe: Recipe, store: PairStore, output: Path) -> None:
    """Make `output` this run's folder and write down recipe and environment, or check that it already is.

    Raises:
        UserError: the folder holds another run, with the difference spelled out, or other files.
    """
    claim_folder(output, run_settings(recipe, store), "a training run")
    if finished(output):
        return  # what is written there is what was run; free settings may read otherwise now
    write_text(
        output / "recipe.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    )
    write_json(output / "environment.json", describe_environment())


def check_texts(recipe: Recipe, store: PairStore) -> None:
    """Refuse, before anything is written, a recipe whose targets need texts that the pairs do not have.

    Raises:
        UserError: targets from degraded prompts, with pairs that have none.
    """
    if not needs_degraded_prompts(recipe):
        return
    without = sum(row.get("degraded_prompt") is None for row in store.rows)
    if without:
        raise UserError(
            f"{store.folder}: {without} of {len(store)} pairs have no degraded prompt, which target.source "
            f"'{recipe.target.source}' needs; choose forward_noise or data_driven, or import them again with --degraded"
        )


def check_states(recipe: Recipe, store: PairStore) -> None:
    """Refuse pairs without stored states for a recipe that trains on states.

    Raises:
        UserError: they hold none.
    """
    if recipe.training.timesteps.states == "trajectory" and store.state_timesteps is None:
        raise UserError(
            f"training.timesteps.states is 'trajectory', and {store.folder} holds no states; make pairs with "
            "pairs.trajectory_states in another folder, or train with states 'forward'"
        )


def check_pairs(recipe: Recipe, store: PairStore, family: PipelineFamily) -> None:
    """Refuse pairs that do not belong to this model.

    Raises:
        UserError: another reference made them, another autoencoder encoded them, their latents have another number of
            channels, or they hold no states although the recipe trains on states.
    """
    check_states(recipe, store)
    if store.is_imported:
        store.check_autoencoder(family.part_fingerprints()["vae"])
    else:
        store.check_reference(family.fingerprint())
    channels = family.latent_shape()[0]
    if store.latent_shape[0] != channels:
        raise UserError(
            f"{store.folder} holds latents of {store.latent_shape[0]} channels, {recipe.model.base} has {channels}"
        )


def check_disk(recipe: Recipe, trained: dict[str, tuple[int, ...]], output: Path) -> None:
    """Refuse before training when checkpoints and result would not fit (one more is written before the oldest goes).

    Raises:
        UserError: less is free than needed.
    """
    held = len(list((output / "checkpoints").glob("step-*")))
    checkpoints = max(recipe.training.keep_checkpoints + 1 - held, 1) * checkpoint_bytes(recipe, trained)
    needed = checkpoints + 4 * sum(math.prod(shape) for shape in trained.values())
    require_free_space(output, needed, "training")


def tracker_config(recipe: Recipe) -> dict[str, str | int | float | bool]:
    """The recipe as 'training.max_steps': 100; trackers take flat values only."""
    flat: dict[str, str | int | float | bool] = {}

    def visit(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                visit(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = value if isinstance(value, str | int | float | bool) else str(value)

    visit("", recipe.model_dump(mode="json", exclude={"baselines"}))
    return flat
