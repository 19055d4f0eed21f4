"""Target sources: what policy and reference predictions are compared with."""

from __future__ import annotations

from .base import TargetRows, TargetSource
from .data_driven import data_driven
from .forward_noise import forward_noise
from .training_free import training_free

TARGETS: dict[str, TargetSource] = {
    "training_free": training_free,
    "forward_noise": forward_noise,
    "data_driven": data_driven,
}
"""`recipe.Target.source` -> function"""

__all__ = ["TARGETS", "TargetRows", "TargetSource", "data_driven", "forward_noise", "training_free"]
