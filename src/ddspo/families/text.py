"""What text encoders have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def clip_tokens(tokenizer: Any, prompts: Sequence[str]) -> Any:
    """Token ids and attention mask of CLIP, padded and cut to `model_max_length`."""
    return tokenizer(
        list(prompts), padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )


def clip_penultimate(
    tokenizer: Any, encoder: Any, prompts: Sequence[str], device: torch.device
) -> tuple[Tensor, Tensor]:
    """(states before CLIP's last layer [B, tokens, width], the encoder's first output).

    The first output is the pooled, projected text [B, projection] of an encoder that has a projection.
    """
    output = encoder(clip_tokens(tokenizer, prompts).input_ids.to(device), output_hidden_states=True)
    return output.hidden_states[-2], output[0]


def longer_than(tokenizer: Any, prompts: Sequence[str], limit: int) -> list[bool]:
    """True where a prompt has more tokens, markers included, than `limit`."""
    return [len(ids) > limit for ids in tokenizer(list(prompts), verbose=False).input_ids]


def t5_states(tokenizer: Any, encoder: Any, prompts: Sequence[str], length: int, device: torch.device) -> Tensor:
    """T5's last states over `length` padded tokens, [B, length, width]; padding is not masked, as in the pipelines."""
    tokens = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return encoder(tokens.input_ids.to(device))[0].to(encoder.dtype)
