"""Stable Diffusion 1.x and 2.x (epsilon or v_prediction), and every model of that architecture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..tensors import Conditioning
from .pipeline import PipelineFamily
from .text import last_states, longer_than


class StableDiffusion(PipelineFamily):
    """UNet2DConditionModel with one CLIP text encoder; conditioning is {"prompt_embeds": [B, tokens, width]}."""

    name = "stable_diffusion"
    denoiser_part = "unet"
    text_parts = {"text_encoder": "tokenizer"}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = self.folder.config("unet")
        if config["in_channels"] != self.latent_channels:
            raise UserError(
                f"{self.base}: the denoiser takes {config['in_channels']} channels and latents have "
                f"{self.latent_channels}; "
                "inpainting and image-conditioned models are not supported"
            )
        if config.get("time_cond_proj_dim") is not None:
            raise UserError(
                f"{self.base} is a guidance-distilled (few-step) model; noising pictures is not valid for it"
            )

    def scheduler(self, name: str = "default", *, height_px: int | None = None, width_px: int | None = None) -> Any:
        """As `PipelineFamily.scheduler`, with the corrections that diffusers' pipeline makes to old configurations."""
        scheduler = super().scheduler(name)
        known = scheduler.config
        corrections: dict[str, Any] = {}
        if known.get("steps_offset", 1) != 1:
            corrections["steps_offset"] = 1
        if known.get("clip_sample", False):
            corrections["clip_sample"] = False
        return type(scheduler).from_config(known, **corrections) if corrections else scheduler

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Last hidden state of CLIP over `model_max_length` padded tokens."""
        masked = bool(self.folder.config("text_encoder").get("use_attention_mask", False))
        embeds, _ = last_states(self, "text_encoder", prompts, masked=masked)
        return Conditioning({"prompt_embeds": embeds})

    def truncated(self, prompts: Sequence[str]) -> list[bool]:
        """True where a prompt has more tokens than CLIP takes (77)."""
        return longer_than(self.part("tokenizer"), prompts)

    def predict(
        self, x_t: Tensor, timestep: Tensor, conditioning: Conditioning, *, denoiser: nn.Module | None = None
    ) -> Tensor:
        """epsilon or v, whichever the checkpoint predicts, [B, C, H, W], in x_t's dtype."""
        network = self.denoiser if denoiser is None else denoiser
        dtype = next(network.parameters()).dtype
        output = network(
            x_t.to(dtype),
            timestep,
            encoder_hidden_states=conditioning.tensors["prompt_embeds"].to(dtype),
            return_dict=False,
        )
        return output[0].to(x_t.dtype)
