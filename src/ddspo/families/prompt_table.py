"""Text embeddings, computed once per unique prompt."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

import torch

from ..errors import UserError
from ..tensors import Conditioning
from .base import Family

_log = logging.getLogger(__name__)


class PromptTable:
    """Conditioning of every unique prompt, kept in main memory and looked up by text.

    Args:
        family: encodes the prompts; its text encoder stays in memory (see `build`).
        prompts: repeats are encoded once.
        batch: prompts per call of the text encoder; None: the family's `prompts_at_once`.
        device: where looked-up rows go; None means the family's device.

    Raises:
        UserError: device memory gives out.
    """

    def __init__(
        self,
        family: Family,
        prompts: Iterable[str],
        batch: int | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        unique = list(dict.fromkeys(prompts))
        self.device = torch.device(device or family.device)
        self._number = {prompt: number for number, prompt in enumerate(unique)}
        self._rows: Conditioning | None = None
        self.truncated = 0
        """how many unique prompts were longer than the text encoder takes"""
        if unique:
            chunks = list(in_batches(unique, batch or family.prompts_at_once))
            self._rows = Conditioning.join([read_prompts(family, chunk).to("cpu") for chunk in chunks])
            self.truncated = sum(sum(family.truncated(chunk)) for chunk in chunks)
        warn_of_truncated(self.truncated, len(unique))

    @classmethod
    def build(
        cls,
        family: Family,
        prompts: Iterable[str],
        batch: int | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> Self:
        """A table, after which the text encoders leave memory."""
        table = cls(family, prompts, batch, device=device)
        family.release("text_encoder")
        return table

    def __len__(self) -> int:
        return len(self._number)

    def __contains__(self, prompt: object) -> bool:
        return prompt in self._number

    def lookup(self, prompts: Sequence[str]) -> Conditioning:
        """Rows for these prompts, in order, repeats allowed.

        Raises:
            KeyError: a prompt that the table was not built with.
        """
        numbers = [self._number[prompt] for prompt in prompts]
        if self._rows is None:
            raise KeyError("the table was built without prompts")
        return self._rows.rows(numbers).to(self.device)


def in_batches(prompts: Sequence[str], batch: int) -> Iterator[Sequence[str]]:
    """The prompts in order, `batch` at a time."""
    return (prompts[start : start + batch] for start in range(0, len(prompts), batch))


def encode_in_batches(family: Family, prompts: Sequence[str]) -> Conditioning:
    """As `family.encode_prompts`, for any number of prompts.

    Raises:
        UserError: device memory gives out.
    """
    return Conditioning.join([read_prompts(family, chunk) for chunk in in_batches(prompts, family.prompts_at_once)])


def read_prompts(family: Family, prompts: Sequence[str]) -> Conditioning:
    """As `family.encode_prompts`, with an end in one line where the text encoders do not fit into device memory.

    Raises:
        UserError: they do not.
    """
    try:
        return family.encode_prompts(prompts)
    except torch.OutOfMemoryError as error:
        smaller = "model.frozen_dtype to bf16, or " if family.dtype == torch.float32 else ""
        raise UserError(
            f"out of device memory while text was encoded; set {smaller}model.offload to true, so that text encoders "
            "and denoiser are on the device in turn, and run the same command again"
        ) from error


def warn_of_truncated(truncated: int, prompts: int) -> None:
    """One line for all prompts of a table, if any is too long."""
    if truncated:
        _log.warning(
            "%d of %d prompts are longer than the text encoder takes; what lies beyond its limit is not seen",
            truncated,
            prompts,
        )
