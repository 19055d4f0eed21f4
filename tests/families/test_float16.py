"""Where SANA overflows in float16, and what is done about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ddspo.errors import UserError
from ddspo.families.load import load_family
from ddspo.families.roles import Roles
from ddspo.recipe import Lora
from helpers.tiny_families import tiny_sana, tiny_sd3


def test_sanas_text_is_not_computed_in_float16(tmp_path: Path) -> None:
    """Gemma 2 overflows there."""
    family = load_family(str(tiny_sana(tmp_path)), dtype="fp16")
    text = family.encode_prompts(["a cat"])
    assert family.part("text_encoder").dtype == torch.bfloat16
    assert {parameter.dtype for parameter in family.denoiser.parameters()} == {torch.float16}
    x_t = torch.zeros(1, *family.latent_shape(64, 64), dtype=torch.float16)
    assert family.predict(x_t, torch.tensor([500.0]), text).dtype == torch.float16


@pytest.mark.parametrize("make", [Roles.lora, Roles.full], ids=["lora", "full"])
def test_sana_is_not_trained_under_float16_autocast(tmp_path: Path, make: Any) -> None:
    sana = load_family(str(tiny_sana(tmp_path)))
    arguments = (Lora(rank=2), 0) if make == Roles.lora else ()
    with pytest.raises(UserError, match=r"mixed_precision fp16: SANA's.*overflows.*use bf16") as caught:
        make(sana, *arguments, mixed_precision="fp16")
    assert "\n" not in str(caught.value)
    make(load_family(str(sana.base)), *arguments, mixed_precision="bf16")
    make(load_family(str(tiny_sd3(tmp_path))), *arguments, mixed_precision="fp16")


def test_why_sana_is_not_trained_under_float16_autocast(tmp_path: Path) -> None:
    """Its attention sums over pixels in float32, which autocast undoes. Where this fails, diffusers has mended it."""
    attention = load_family(str(tiny_sana(tmp_path))).denoiser.get_submodule("transformer_blocks.0.attn1")
    pixels = 100 * torch.randn(1, 1024, 32, generator=torch.Generator().manual_seed(0))

    def finite(precision: torch.dtype) -> bool:
        with torch.no_grad(), torch.autocast("cpu", precision):
            return bool(attention(pixels).isfinite().all())

    assert not finite(torch.float16) and finite(torch.bfloat16)
    with torch.no_grad():
        assert attention.half()(pixels.half()).isfinite().all()
