"""FLUX.1: packed latents, image positions, T5 text, and guidance as an input of the network."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..tensors import Conditioning
from .flow import FlowFamily
from .text import last_states, longer_than, padded_tokens


class Flux(FlowFamily):
    """Conditioning is {"prompt_embeds": [B, 512, width], "pooled_prompt_embeds": [B, width], "guidance": [B]}.

    A guidance-distilled checkpoint is told its guidance strength (others have no such tensor) and needs no
    unconditional rows: sample it with guidance_scale 1. The strength is `embedded_guidance`, the same for policy and
    reference, training and sampling.
    """

    name = "flux"
    text_parts = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
    max_tokens = 512
    prompts_at_once = 16  # at 512 tokens T5-XXL needs about 10 GB for attention scores of 64
    embedded_guidance = 3.5

    @property
    def size_multiple_px(self) -> int:
        """Latents are packed two by two."""
        return 2 * self.pixels_per_latent

    def trained_size_px(self) -> tuple[int, int]:
        """1024 px: the configuration does not say, the pipeline's default does."""
        return 128 * self.pixels_per_latent, 128 * self.pixels_per_latent

    def scheduler(self, name: str = "default", *, height_px: int | None = None, width_px: int | None = None) -> Any:
        """As `FlowFamily.scheduler`; the checkpoint's own shifts by the picture's size, so it has to be told."""
        scheduler = super().scheduler(name, height_px=height_px, width_px=width_px)
        if scheduler.config.get("use_dynamic_shifting"):
            mu = math.log(self.flow_shift(scheduler.config, height_px, width_px))
            scheduler.set_timesteps = functools.partial(_set_timesteps, scheduler, mu)
        return scheduler

    def flow_shift(self, config: Any, height_px: int | None, width_px: int | None) -> float:
        """exp(mu), with mu linear in the number of tokens, where the checkpoint asks for it."""
        if not config.get("use_dynamic_shifting"):
            return super().flow_shift(config, height_px, width_px)
        _, height, width = self.latent_shape(height_px, width_px)
        short, long = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        return math.exp(low + (height * width / 4 - short) * (high - low) / (long - short))

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """T5's states, CLIP's pooled text, and the guidance strength."""
        tokens = padded_tokens(self.part("tokenizer"), prompts).input_ids.to(self.device)
        clip = self.part("text_encoder")
        states, _ = last_states(self, "text_encoder_2", prompts, self.max_tokens)
        told = {"prompt_embeds": states, "pooled_prompt_embeds": clip(tokens).pooler_output.to(clip.dtype)}
        if self._is_told_guidance:
            told["guidance"] = torch.full((len(prompts),), self.embedded_guidance, device=self.device)
        return Conditioning(told)

    @property
    def _is_told_guidance(self) -> bool:
        return bool(self.folder.config("transformer").get("guidance_embeds", False))

    def truncated(self, prompts: Sequence[str]) -> list[bool]:
        """True where a prompt has more than 512 T5 tokens."""
        return longer_than(self.part("tokenizer_2"), prompts, self.max_tokens)

    def predict(
        self, x_t: Tensor, timestep: Tensor, conditioning: Conditioning, *, denoiser: nn.Module | None = None
    ) -> Tensor:
        """The velocity, noise - x_0, [B, C, H, W], in x_t's dtype."""
        network = self.denoiser if denoiser is None else denoiser
        dtype = next(network.parameters()).dtype
        text = conditioning.to(dtype=dtype).tensors
        height, width = x_t.shape[-2] // 2, x_t.shape[-1] // 2
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        positions = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).to(x_t.device, dtype)
        output = network(
            hidden_states=pack(x_t).to(dtype),
            timestep=timestep.to(x_t.device, x_t.dtype) / 1000,
            guidance=conditioning.tensors["guidance"] if self._is_told_guidance else None,
            pooled_projections=text["pooled_prompt_embeds"],
            encoder_hidden_states=text["prompt_embeds"],
            txt_ids=positions.new_zeros(text["prompt_embeds"].shape[1], 3),
            img_ids=positions,
            return_dict=False,
        )
        return unpack(output[0], height, width).to(x_t.dtype)


def pack(latents: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H/2 · W/2, 4C]: each two by two latents become one token."""
    batch, channels, height, width = latents.shape
    cells = latents.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(batch, height // 2 * (width // 2), 4 * channels)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Undo `pack`; height and width in tokens."""
    batch, _, channels = tokens.shape
    cells = tokens.reshape(batch, height, width, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return cells.reshape(batch, channels // 4, 2 * height, 2 * width)


def _set_timesteps(scheduler: Any, mu: float, num_inference_steps: int, device: Any = None) -> None:
    """As the FLUX pipeline: even sigmas from 1 to 1/steps, shifted by exp(mu)."""
    sigmas = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
    type(scheduler).set_timesteps(scheduler, sigmas=sigmas, mu=mu, device=device)
