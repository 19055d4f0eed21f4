"""Sample pairs: winning and losing pictures in one batch, from shared noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..diffusion.sampler import sample
from ..errors import UserError
from ..families.base import Family
from ..ledger import Ledger
from ..recipe import Sampling
from ..tensors import Conditioning, WinLose
from .plan import PlannedPair


class PairMaker:
    """Draws both sides of pairs with the reference.

        x_0_win = sample(x_T | prompt)     x_0_lose = sample(x_T | degraded prompt)     one x_T per pair, from its seed

    Both sides, and the unconditional rows of guidance, share one network call per step: 4 rows per pair with guidance,
    2 without.
    """

    def __init__(
        self, family: Family, sampling: Sampling, *, height_px: int | None = None, width_px: int | None = None
    ) -> None:
        self.family, self.sampling, self.size_px = family, sampling, {"height_px": height_px, "width_px": width_px}
        self.latent_shape = family.latent_shape(height_px, width_px)
        self.pairs_per_batch = max(1, sampling.batch_images // 2)
        self._unconditional: Conditioning | None = None

    def make(self, pairs: Sequence[PlannedPair], cost: Ledger) -> WinLose:
        """x_0 of one batch of pairs, [B, C, H, W] each, on the CPU, in the family's precision.

        Args:
            cost: is told every row that the network evaluates.

        Raises:
            UserError: memory does not suffice for the batch, or the network gives numbers that are not finite.
        """
        try:
            x_0 = self._sample(pairs, cost).cpu()
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{2 * len(pairs)} pictures at once do not fit in memory; lower pairs.sampling.batch_images"
            ) from error
        if not x_0.isfinite().all():
            raise UserError(
                f"the network gave numbers that are not finite for a prompt between {pairs[0].prompt!r} and "
                f"{pairs[-1].prompt!r}; set model.frozen_dtype to bf16 or fp32"
            )
        return WinLose.split(x_0)

    def _sample(self, pairs: Sequence[PlannedPair], cost: Ledger) -> Tensor:
        def predict(x_t: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
            cost.add(len(x_t))
            return self.family.predict(x_t, timestep, conditioning)

        conditioning = self.family.encode_prompts(
            [pair.prompt for pair in pairs] + [pair.degraded_prompt for pair in pairs]
        )
        if self.sampling.guidance_scale > 1 and self._unconditional is None:
            self._unconditional = self.family.encode_prompts([""])
        # One generator per row: a scheduler that adds noise as it goes gives both sides of a pair the same noise too.
        generators = [torch.Generator().manual_seed(pair.seed) for pair in (*pairs, *pairs)]
        x_T = torch.stack([torch.randn(self.latent_shape, generator=generator) for generator in generators])  # noqa: N806
        return sample(
            predict,
            self.family.scheduler(self.sampling.sampler, **self.size_px),
            x_T.to(self.family.device, self.family.dtype),
            conditioning,
            steps=self.sampling.steps,
            guidance_scale=self.sampling.guidance_scale,
            unconditional=self._unconditional,
            generator=generators,
        )

    def index_row(self, pair: PlannedPair, reference_fingerprint: str) -> dict[str, Any]:
        """What the index tells about a pair: enough to make it again alone."""
        return {
            "id": pair.id(reference_fingerprint),
            **dataclasses.asdict(pair),
            "sampler": self.sampling.sampler,
            "guidance_scale": self.sampling.guidance_scale,
            "steps": self.sampling.steps,
            "reference_fingerprint": reference_fingerprint,
        }
