"""One row a family: its tiny pipeline, and what the denoiser is fed and gives inside diffusers' own pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.tiny_families import tiny_sdxl
from helpers.tiny_pipelines import tiny_sd

PROMPT = "a red cat"


@dataclass(frozen=True)
class Case:
    """A family to test.

    encode: (pipeline, prompts) -> tensors by conditioning name, from the pipeline's own `encode_prompt`.
    call: further arguments of the pipeline's call.
    unpack: (pipeline, tensor as the network sees it, latent shape) -> [B, C, H, W].
    """

    name: str
    build: Callable[[Path], Path]
    encode: Callable[[Any, list[str]], dict[str, Tensor]]
    call: dict[str, Any] = field(default_factory=dict)
    unpack: Callable[[Any, Tensor, tuple[int, int, int]], Tensor] = lambda pipeline, tensor, shape: tensor
    size_px: tuple[int, int] = (64, 64)


def _encode_sd(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
    embeds, _ = pipeline.encode_prompt(prompts, "cpu", 1, False)
    return {"prompt_embeds": embeds}


def _encode_sdxl(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
    embeds, empty, pooled, empty_pooled = pipeline.encode_prompt(
        prompts, device="cpu", do_classifier_free_guidance=True
    )
    rows = torch.tensor([not prompt for prompt in prompts])
    return {
        "prompt_embeds": torch.where(rows[:, None, None], empty, embeds),
        "pooled_prompt_embeds": torch.where(rows[:, None], empty_pooled, pooled),
    }


CASES = [
    Case("sd_epsilon", tiny_sd, _encode_sd),
    Case("sd_v_prediction", lambda folder: tiny_sd(folder, "v_prediction", "ddim"), _encode_sd),
    Case("sdxl", tiny_sdxl, _encode_sdxl, size_px=(64, 128)),
    Case("sdxl_empty_prompt_is_text", lambda folder: tiny_sdxl(folder, force_zeros=False), _encode_sdxl),
]


@dataclass
class Call:
    """One call of the denoiser inside the pipeline."""

    x_t: Tensor
    output: Tensor


def record_calls(denoiser: torch.nn.Module) -> list[Call]:
    """From now on, note what the denoiser is fed and gives."""
    calls: list[Call] = []

    def note(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        x_t = args[0] if args else kwargs.get("sample", kwargs.get("hidden_states"))
        calls.append(Call(x_t.clone(), output[0].clone()))

    denoiser.register_forward_hook(note, with_kwargs=True)
    return calls
