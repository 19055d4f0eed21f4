"""SANA: a linear-attention transformer on 32-fold compressed latents, told by Gemma 2 with an instruction."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..tensors import Conditioning
from .flow import FlowFamily
from .text import last_states, longer_than


class Sana(FlowFamily):
    """Conditioning is {"prompt_embeds": [B, 300, width], "prompt_attention_mask": [B, 300]}."""

    name = "sana"
    text_parts = {"text_encoder": "tokenizer"}
    default_lora_targets = ("to_k", "to_q", "to_v", "to_out.0")
    max_tokens = 300
    prompts_at_once = 16  # Gemma reads the instruction with every prompt
    samples_in_float32 = True
    # diffusers sums over all pixels in float32, but autocast takes these products back to float16, where they overflow.
    autocast_refused = {
        "fp16": "SANA's linear attention overflows in float16 there; use bf16, with a checkpoint made for it such as "
        "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers"
    }

    @property
    def pixels_per_latent(self) -> int:
        """32: one halving between each two blocks of the autoencoder."""
        return int(2 ** (len(self.folder.config("vae")["encoder_block_out_channels"]) - 1))

    def dtype_of(self, part: str) -> torch.dtype:
        """As elsewhere; but Gemma 2 overflows in float16, so it runs in bfloat16, as in diffusers' example."""
        dtype = super().dtype_of(part)
        return torch.bfloat16 if part in self.text_parts and dtype == torch.float16 else dtype

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Gemma's states after the pipeline's own instruction; '' gives the unconditional rows, without instruction."""
        told = self._states(*self._instructed(prompts))
        # The first token and the last 299: the instruction itself is not handed on (SANA, arXiv 2410.10629, 3.1).
        kept = [0, *range(-self.max_tokens + 1, 0)]
        rows = {name: tensor[:, kept] for name, tensor in told.items()}
        empty = [number for number, prompt in enumerate(prompts) if not prompt]
        if empty:
            plain = self._states([""], self.max_tokens)
            for name, tensor in rows.items():
                tensor[empty] = plain[name]
        return Conditioning(rows)

    def _instructed(self, prompts: Sequence[str]) -> tuple[list[str], int]:
        """What the encoder reads, and how many tokens of it."""
        instruction = self.instruction()
        lead = len(self._tokenizer().encode(instruction)) - 2 if instruction else 0
        return [instruction + prompt.lower().strip() for prompt in prompts], self.max_tokens + lead

    def _tokenizer(self) -> Any:
        tokenizer = self.part("tokenizer")
        tokenizer.padding_side = "right"
        return tokenizer

    def _states(self, texts: Sequence[str], length: int) -> dict[str, Tensor]:
        self._tokenizer()  # pads on the right from here on, as the pipeline does
        # Nothing is generated, and a cache of keys and values would take gigabytes.
        states, mask = last_states(self, "text_encoder", texts, length, masked=True, use_cache=False)
        return {"prompt_embeds": states, "prompt_attention_mask": mask}

    @staticmethod
    def instruction() -> str:
        """The text that the pipeline puts before every prompt by default."""
        from diffusers import SanaPipeline

        default = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
        return "\n".join(default or [])

    def truncated(self, prompts: Sequence[str]) -> list[bool]:
        """True where a prompt is cut: the pipeline leaves 298 tokens after the instruction."""
        return longer_than(self._tokenizer(), *self._instructed(prompts))

    def predict(
        self, x_t: Tensor, timestep: Tensor, conditioning: Conditioning, *, denoiser: nn.Module | None = None
    ) -> Tensor:
        """The velocity, noise - x_0, [B, C, H, W], in x_t's dtype."""
        network = self.denoiser if denoiser is None else denoiser
        dtype = next(network.parameters()).dtype
        text = conditioning.to(dtype=dtype).tensors
        output = network(
            x_t.to(dtype),
            encoder_hidden_states=text["prompt_embeds"],
            encoder_attention_mask=text["prompt_attention_mask"],
            timestep=timestep * self.folder.config("transformer").get("timestep_scale", 1.0),
            return_dict=False,
        )
        return output[0][:, : x_t.shape[1]].to(x_t.dtype)
