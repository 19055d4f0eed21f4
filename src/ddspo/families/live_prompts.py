"""Text embeddings that are not kept: the encoders stay in memory and read prompts whenever they are looked up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from ..tensors import Conditioning
from .base import Family
from .prompt_table import PromptTable, encode_in_batches, in_batches, warn_of_truncated


class LivePromptTable(PromptTable):
    """A `PromptTable` for lists whose embeddings no disk holds: 200,000 pairs of SD3 would be about a terabyte.

    A row may differ in rounding from a stored one, since it depends on what is looked up together.

    Args:
        family: encodes the prompts at every lookup.
        prompts: what may be looked up; they are counted and not encoded here.
        offload: keep the encoders in main memory between lookups; moving them takes time.
        device: where looked-up rows go; None means the family's device.
    """

    def __init__(
        self,
        family: Family,
        prompts: Iterable[str],
        *,
        offload: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        unique = list(dict.fromkeys(prompts))
        self.device = torch.device(device or family.device)
        self._family, self._prompts, self._offload = family, set(unique), offload
        self.truncated = sum(sum(family.truncated(chunk)) for chunk in in_batches(unique, family.prompts_at_once))
        warn_of_truncated(self.truncated, len(unique))

    def __len__(self) -> int:
        return len(self._prompts)

    def __contains__(self, prompt: object) -> bool:
        return prompt in self._prompts

    def lookup(self, prompts: Sequence[str]) -> Conditioning:
        """Rows for these prompts, in order; of repeats one is encoded.

        Raises:
            KeyError: a prompt that the table was not built with.
            UserError: device memory gives out.
        """
        missing = next((prompt for prompt in prompts if prompt not in self), None)
        if missing is not None:
            raise KeyError(missing)
        unique = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
        rows = encode_in_batches(self._family, list(unique))
        if self._offload:
            self._family.rest("text_encoder")
        return rows.rows([unique[prompt] for prompt in prompts]).to(self.device)
