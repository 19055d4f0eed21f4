"""What reference rows depend on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..method_facts import asks_reference
from ..recipe import Recipe
from .data import Batches
from .row_store import FORMAT
from .setup import pairs_identity
from .target_models import target_settings

if TYPE_CHECKING:
    from ..families.pipeline import PipelineFamily
    from ..pairs.store import PairStore

_APPLIED_LATER = ("guidance_weight", "error_space")
"""of the target: arithmetic on what is stored"""


def row_settings(recipe: Recipe, store: PairStore, family: PipelineFamily, batches: Batches) -> dict[str, Any]:
    """Everything that decides a bit of the rows, but for how many steps there are."""
    training = recipe.training
    even = store.one_shape and training.global_batch_pairs % (batches.processes * training.micro_batch_pairs) == 0
    target = {name: value for name, value in target_settings(recipe).items() if name not in _APPLIED_LATER}
    return {
        "format": FORMAT,
        "seed": recipe.seed,
        "reference_fingerprint": family.fingerprint(),
        "frozen_dtype": recipe.model.frozen_dtype,
        "mixed_precision": training.mixed_precision,
        "parameters": training.parameters,
        "compile": training.compile,
        "device": batches.device.type,
        "target": target,
        "asks_reference": asks_reference(recipe),
        "timesteps": training.timesteps.model_dump(mode="json", exclude={"weight"}),
        "caption_dropout": training.caption_dropout,
        **({} if training.text == "stored" else {"text": training.text}),
        "global_batch_pairs": training.global_batch_pairs,
        "micro_batch_pairs": training.micro_batch_pairs,
        "processes": None if even else batches.processes,  # matters where it changes the cut into micro batches
        "pairs": pairs_identity(recipe, store),
    }
