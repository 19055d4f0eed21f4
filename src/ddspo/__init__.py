"""Direct Diffusion Score Preference Optimization: align a text-to-image model with its prompts, without labels.

The road, one function each: `degrade_prompts`, `build_pairs`, `train`, `evaluate`, `build_report`; `align` walks all
of it. Names load on first use, so `import ddspo` itself is light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .alignment import align
    from .errors import UserError
    from .evaluation.evaluate import evaluate
    from .objectives.preference import preference_loss
    from .pairs.build import build_pairs
    from .prompts.degrade import degrade_prompts
    from .recipe import Recipe
    from .recipe_file import load_recipe
    from .report import build_report
    from .training.loop import train

__version__ = "0.1.0"

__all__ = [
    "Recipe",
    "UserError",
    "align",
    "build_pairs",
    "build_report",
    "degrade_prompts",
    "evaluate",
    "load_recipe",
    "preference_loss",
    "train",
]

_HOME = {
    "Recipe": "recipe",
    "UserError": "errors",
    "align": "alignment",
    "build_pairs": "pairs.build",
    "build_report": "report",
    "degrade_prompts": "prompts.degrade",
    "evaluate": "evaluation.evaluate",
    "load_recipe": "recipe_file",
    "preference_loss": "objectives.preference",
    "train": "training.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ddspo' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
