"""One vector per text from a model's own text encoders, to tell how differently it reads two prompts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..processes import local_device
from ..recipe import Model
from ..tensors import Conditioning
from .base import Family
from .prompt_table import in_batches, read_prompts

_log = logging.getLogger(__name__)


class TextEmbedder:
    """Texts -> [N, D] float32. The encoders load at the first call, in the recipe's precision, on this process's
    device.

    A text's vector is the pooled state where the model has one, otherwise the mean of the states over its tokens.

    Args:
        model: names the base.
        batch: texts per call of the encoders; None: the family's `prompts_at_once`.
        family: a loaded one, in place of `model`'s.
    """

    def __init__(self, model: Model, batch: int | None = None, family: Family | None = None) -> None:
        self._model, self._batch, self._family = model, batch, family

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the vectors, for the record of what was measured."""
        return self._model.model_dump(mode="json", include={"base", "revision", "variant", "frozen_dtype"})

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """One vector per text."""
        if self._family is None:
            from .load import load_family

            model = self._model
            _log.info("loading the text encoder of %s to measure distances", model.base)
            self._family = load_family(
                model.base,
                dtype=model.frozen_dtype,
                device=local_device(),
                revision=model.revision,
                variant=model.variant,
            )
        chunks = in_batches(texts, self._batch or self._family.prompts_at_once)
        vectors = [pooled(read_prompts(self._family, chunk)).float().cpu() for chunk in chunks]
        return torch.cat(vectors).numpy()

    def release(self) -> None:
        """Let go of the encoders; they load again when used."""
        if self._family is not None:
            self._family.release("text_encoder")


def pooled(conditioning: Conditioning) -> torch.Tensor:
    """[B, D]: the pooled states, or the mean of the states over the tokens that are not masked."""
    tensors = conditioning.tensors
    if "pooled_prompt_embeds" in tensors:
        return tensors["pooled_prompt_embeds"]
    states = tensors["prompt_embeds"].float()
    mask = tensors.get("prompt_attention_mask")
    if mask is None:
        return states.mean(1)
    weight = mask.to(states.dtype)[..., None]
    return (states * weight).sum(1) / weight.sum(1).clamp_min(1)
