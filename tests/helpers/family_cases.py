"""One row a family: its tiny pipeline, and what the denoiser is fed and gives inside diffusers' own pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.tiny_families import tiny_flux, tiny_sana, tiny_sd3, tiny_sdxl
from helpers.tiny_pipelines import tiny_sd

PROMPT = "a red cat"


@dataclass(frozen=True)
class Case:
    """A family to test.

    encode: (pipeline, prompts) -> tensors by conditioning name, from the pipeline's own `encode_prompt`.
    call: further arguments of the pipeline's call.
    unpack: (pipeline, tensor as the network sees it, latent shape) -> [B, C, H, W]; pack is its inverse.
    guidance_scale: of our sampler; the pipeline's is the same unless `call` has its own.
    """

    name: str
    build: Callable[[Path], Path]
    encode: Callable[[Any, list[str]], dict[str, Tensor]]
    call: dict[str, Any] = field(default_factory=dict)
    unpack: Callable[[Any, Tensor, tuple[int, int, int]], Tensor] = lambda pipeline, tensor, shape: tensor
    pack: Callable[[Any, Tensor], Tensor] = lambda pipeline, tensor: tensor
    size_px: tuple[int, int] = (64, 64)
    guidance_scale: float = 3.0


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


def _encode_sd3(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
    embeds, _, pooled, _ = pipeline.encode_prompt(prompts, None, None, device="cpu", do_classifier_free_guidance=False)
    return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}


def _encode_sana(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
    instruction = inspect.signature(pipeline.__call__).parameters["complex_human_instruction"].default
    assert instruction
    embeds, mask, empty, empty_mask = pipeline.encode_prompt(
        prompts, device="cpu", complex_human_instruction=instruction
    )
    rows = torch.tensor([not prompt for prompt in prompts])
    return {
        "prompt_embeds": torch.where(rows[:, None, None], empty, embeds),
        "prompt_attention_mask": torch.where(rows[:, None], empty_mask, mask),
    }


def _encode_flux(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
    embeds, pooled, _ = pipeline.encode_prompt(prompts, device="cpu")
    return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}


def _unpack_flux(pipeline: Any, tensor: Tensor, shape: tuple[int, int, int]) -> Tensor:
    return pipeline._unpack_latents(tensor, 8 * shape[1], 8 * shape[2], 8)


def _pack_flux(pipeline: Any, tensor: Tensor) -> Tensor:
    return pipeline._pack_latents(tensor, *tensor.shape)


CASES = [
    Case("sd_epsilon", tiny_sd, _encode_sd),
    Case("sd_v_prediction", lambda folder: tiny_sd(folder, "v_prediction", "ddim"), _encode_sd),
    Case("sdxl", tiny_sdxl, _encode_sdxl, size_px=(64, 128)),
    Case("sdxl_empty_prompt_is_text", lambda folder: tiny_sdxl(folder, force_zeros=False), _encode_sdxl),
    Case("sd3", tiny_sd3, _encode_sd3, size_px=(64, 96)),
    Case("sd3_without_t5", lambda folder: tiny_sd3(folder, with_t5=False), _encode_sd3),
    Case("sana", tiny_sana, _encode_sana, call={"use_resolution_binning": False}, size_px=(64, 96)),
    Case(
        "flux",
        tiny_flux,
        _encode_flux,
        call={"guidance_scale": 3.5},
        unpack=_unpack_flux,
        pack=_pack_flux,
        size_px=(64, 96),
        guidance_scale=1.0,
    ),
    Case(
        "flux_without_guidance",
        lambda folder: tiny_flux(folder, guidance=False),
        _encode_flux,
        unpack=_unpack_flux,
        pack=_pack_flux,
        size_px=(64, 64),
        guidance_scale=1.0,
    ),
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
