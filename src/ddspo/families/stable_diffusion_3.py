"""Stable Diffusion 3 and 3.5: a multimodal transformer with two CLIP encoders and an optional T5."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..tensors import Conditioning
from .flow import FlowFamily
from .text import clip_pair, last_states, longer_than


class StableDiffusion3(FlowFamily):
    """Conditioning is {"prompt_embeds": [B, 77 + 256, width], "pooled_prompt_embeds": [B, pooled width]}."""

    name = "stable_diffusion_3"
    text_parts = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2", "text_encoder_3": "tokenizer_3"}
    optional_text_parts = frozenset({"text_encoder_3"})
    t5_tokens = 256
    prompts_at_once = 16  # for T5-XXL, as in FLUX

    @property
    def size_multiple_px(self) -> int:
        """Latents are cut into patches."""
        return self.pixels_per_latent * int(self.folder.config("transformer")["patch_size"])

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """CLIP states side by side, padded to T5's width, then T5's states (zeros where the checkpoint has no T5)."""
        clip, *pooled = clip_pair(self, prompts)
        width = int(self.folder.config("transformer")["joint_attention_dim"])
        if "text_encoder_3" in self.text_parts:
            t5, _ = last_states(self, "text_encoder_3", prompts, self.t5_tokens)
        else:
            t5 = clip.new_zeros(len(prompts), self.t5_tokens, width)
        clip = nn.functional.pad(clip, (0, width - clip.shape[-1]))
        embeds = torch.cat([clip, t5], dim=1)
        return Conditioning({"prompt_embeds": embeds, "pooled_prompt_embeds": torch.cat(pooled, dim=-1)})

    def truncated(self, prompts: Sequence[str]) -> list[bool]:
        """True where the encoder that reads furthest (T5: 256 tokens, without it CLIP: 77) does not see the end."""
        if "text_encoder_3" in self.text_parts:
            return longer_than(self.part("tokenizer_3"), prompts, self.t5_tokens)
        return longer_than(self.part("tokenizer"), prompts)

    def predict(
        self, x_t: Tensor, timestep: Tensor, conditioning: Conditioning, *, denoiser: nn.Module | None = None
    ) -> Tensor:
        """The velocity, noise - x_0, [B, C, H, W], in x_t's dtype."""
        network = self.denoiser if denoiser is None else denoiser
        dtype = next(network.parameters()).dtype
        text = conditioning.to(dtype=dtype).tensors
        output = network(
            hidden_states=x_t.to(dtype),
            timestep=timestep,
            encoder_hidden_states=text["prompt_embeds"],
            pooled_projections=text["pooled_prompt_embeds"],
            return_dict=False,
        )
        return output[0].to(x_t.dtype)
