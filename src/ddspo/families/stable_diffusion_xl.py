"""Stable Diffusion XL: two text encoders, pooled text, and the picture's size told to the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..tensors import Conditioning
from .stable_diffusion import StableDiffusion
from .text import clip_pair, longer_than


class StableDiffusionXL(StableDiffusion):
    """Conditioning is {"prompt_embeds": [B, 77, width], "pooled_prompt_embeds": [B, pooled width]}.

    The size conditioning is "size_ids" [B, 6] where the conditioning has it (pictures that were cropped). Else it
    follows from x_t: original size = target size = the picture's, no crop, as in the pipeline's own defaults.
    """

    name = "stable_diffusion_xl"
    text_parts = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}

    def scheduler(self, name: str = "default", *, height_px: int | None = None, width_px: int | None = None) -> Any:
        """The checkpoint's own as it is: this pipeline corrects no old configurations. Others as `StableDiffusion`."""
        return self.folder.load_scheduler() if name == "default" else super().scheduler(name)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Penultimate states of both encoders side by side, pooled text of the second.

        '' gives the unconditional rows: zeros where the pipeline says `force_zeros_for_empty_prompt`.
        """
        embeds, _, pooled = clip_pair(self, prompts)
        if self.folder.index.get("force_zeros_for_empty_prompt", True):
            empty = torch.tensor([not prompt for prompt in prompts], device=self.device)
            embeds, pooled = embeds.masked_fill(empty[:, None, None], 0), pooled.masked_fill(empty[:, None], 0)
        return Conditioning({"prompt_embeds": embeds, "pooled_prompt_embeds": pooled})

    def truncated(self, prompts: Sequence[str]) -> list[bool]:
        """True where a prompt has more tokens than either encoder takes (77)."""
        cut = [longer_than(self.part(name), prompts) for name in self.text_parts.values()]
        return [any(row) for row in zip(*cut, strict=True)]

    def predict(
        self, x_t: Tensor, timestep: Tensor, conditioning: Conditioning, *, denoiser: nn.Module | None = None
    ) -> Tensor:
        """epsilon or v, whichever the checkpoint predicts, [B, C, H, W], in x_t's dtype."""
        network = self.denoiser if denoiser is None else denoiser
        dtype = next(network.parameters()).dtype
        text = conditioning.to(dtype=dtype).tensors
        output = network(
            x_t.to(dtype),
            timestep,
            encoder_hidden_states=text["prompt_embeds"],
            added_cond_kwargs={
                "text_embeds": text["pooled_prompt_embeds"],
                # In bfloat16 1365 px would be 1368, and a frozen copy would be told another size than the policy.
                "time_ids": text.get("size_ids", self.size_ids(x_t)).float(),
            },
            return_dict=False,
        )
        return output[0].to(x_t.dtype)

    def size_ids(self, x_t: Tensor) -> Tensor:
        """[B, 6]: original height and width, crop top and left, target height and width, in pixels."""
        height, width = (side * self.pixels_per_latent for side in x_t.shape[-2:])
        return torch.tensor([[height, width, 0, 0, height, width]], device=x_t.device).expand(x_t.shape[0], -1)
