"""Target sources: what policy and reference predictions are compared with."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from .base import TargetRows, TargetSource
from .data_driven import data_driven
from .forward_noise import forward_noise
from .guidance import guidance
from .training_free import training_free

if TYPE_CHECKING:
    from .. import recipe

TARGETS: dict[str, TargetSource] = {
    "training_free": training_free,
    "forward_noise": forward_noise,
    "data_driven": data_driven,
    "guidance": guidance,
}
"""`recipe.Target.source` -> function"""


def target_source(settings: recipe.Target) -> TargetSource:
    """The source that a recipe names, with its settings."""
    if settings.source == "guidance":
        return partial(guidance, weight=settings.guidance_weight)
    return TARGETS[settings.source]


__all__ = [
    "TARGETS",
    "TargetRows",
    "TargetSource",
    "data_driven",
    "forward_noise",
    "guidance",
    "target_source",
    "training_free",
]
