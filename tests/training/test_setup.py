"""What is refused before the first step."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddspo.errors import UserError
from ddspo.recipe import Recipe
from ddspo.training.setup import start_accelerator


def test_lora_on_a_float16_base_needs_loss_scaling(tmp_path: Path) -> None:
    """Gradients pass the frozen layers in float16, where those of a large batch are below its smallest number."""

    def start(**training: str) -> None:
        start_accelerator(
            Recipe.model_validate({"model": {"frozen_dtype": "fp16"}, "training": training}), tmp_path / "run"
        )

    with pytest.raises(UserError, match="frozen_dtype fp16 needs training.mixed_precision fp16"):
        start(parameters="lora")
    start(parameters="lora", mixed_precision="bf16")  # its range is float32's
