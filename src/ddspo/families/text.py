"""What text encoders have in common: padded tokens, states, and which prompts are too long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .pipeline import PipelineFamily


def padded_tokens(tokenizer: Any, texts: Sequence[str], length: int | None = None) -> Any:
    """Token ids and attention mask, padded and cut to `length`; None: `model_max_length`, as CLIP wants it."""
    length = length or tokenizer.model_max_length
    return tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")


def clip_pair(family: PipelineFamily, prompts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """What SDXL and SD3 take from their two CLIP encoders.

    Returns:
        states before the last layer of both, side by side [B, tokens, width + width]; the first output of the first
        and of the second: the pooled, projected text [B, projection] of an encoder that has a projection.
    """
    first, pooled = _clip_penultimate(family, "text_encoder", prompts)
    second, pooled_2 = _clip_penultimate(family, "text_encoder_2", prompts)
    return torch.cat([first, second], dim=-1), pooled, pooled_2


def _clip_penultimate(family: PipelineFamily, encoder: str, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    tokens = padded_tokens(family.part(family.text_parts[encoder]), prompts)
    output = family.part(encoder)(tokens.input_ids.to(family.device), output_hidden_states=True)
    return output.hidden_states[-2], output[0]


def last_states(
    family: PipelineFamily,
    encoder: str,
    texts: Sequence[str],
    length: int | None = None,
    *,
    masked: bool = False,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """(last hidden states [B, length, width], attention mask [B, length]) of CLIP, T5 or Gemma.

    Args:
        encoder: a key of `family.text_parts`.
        length: tokens; None: the tokenizer's `model_max_length`.
        masked: whether padding is hidden from the encoder; the pipelines of T5 and CLIP show it.
        options: more of the encoder's own arguments.
    """
    network: nn.Module = family.part(encoder)
    tokens = padded_tokens(family.part(family.text_parts[encoder]), texts, length)
    mask = tokens.attention_mask.to(family.device)
    states = network(tokens.input_ids.to(family.device), attention_mask=mask if masked else None, **options)[0]
    return states.to(network.dtype), mask


def longer_than(tokenizer: Any, prompts: Sequence[str], limit: int | None = None) -> list[bool]:
    """True where a prompt has more tokens, markers included, than `limit` (None: `model_max_length`)."""
    limit = limit or tokenizer.model_max_length
    return [len(ids) > limit for ids in tokenizer(list(prompts), verbose=False).input_ids]
