"""Previews: texts are where the network is, whatever device the table of texts is on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from ddspo.families.load import load_family
from ddspo.families.prompt_table import PromptTable
from ddspo.tensors import Conditioning
from ddspo.training.preview import draw_preview
from helpers.training_cases import changed, make_case


class InMainMemory(Conditioning):
    """Rows that no network may be fed before they are moved, as those of training's table on an accelerator."""

    moved: ClassVar[list[tuple[int, Any]]] = []

    def to(self, device: Any = None, dtype: Any = None) -> Conditioning:
        self.moved.append((len(self), device))
        return Conditioning(self.tensors).to(device, dtype)


def test_texts_are_moved_to_the_network(tmp_path: Path) -> None:
    recipe, _ = make_case(tmp_path)
    family = load_family(recipe.model.base)
    table = PromptTable.build(family, ["", "a cat", "a dog"], device="cpu")
    fed: list[type] = []

    def predict(role: str, x_t: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        fed.append(type(conditioning))
        return torch.zeros_like(x_t)

    class Table:
        def lookup(self, prompts: list[str]) -> Conditioning:
            return InMainMemory(table.lookup(prompts).tensors)

    recipe = changed(recipe, evaluation={"sampling": {"steps": 2, "guidance_scale": 1.0}})
    draw_preview(recipe, family, predict, ["a cat", "a dog"], Table(), tmp_path / "preview.png")  # type: ignore[arg-type]
    assert fed and set(fed) == {Conditioning}
    assert InMainMemory.moved == [(2, torch.device("cpu")), (1, torch.device("cpu"))]  # the prompts and ''
    with Image.open(tmp_path / "preview.png") as drawn:
        assert drawn.size == (2 * 64, 64)
