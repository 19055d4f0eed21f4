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
from ..families.prompt_table import encode_in_batches
from ..ledger import Ledger
from ..recipe import Pairs
from ..tensors import Conditioning, WinLose
from .plan import PlannedPair
from .trajectory import StateKeeper, kept_states


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A batch of pairs on the CPU, rounded to the family's precision (SANA samples in float32 whatever that is).

    x_0: [B, C, H, W] a side. states: what sampling visited, [B, K, C, H, W] a side; None when none are kept.
    """

    x_0: WinLose
    states: WinLose | None = None


class PairMaker:
    """Draws both sides of pairs with the reference.

        x_0_win = sample(x_T | prompt)     x_0_lose = sample(x_T | degraded prompt)     one x_T per pair, from its seed

    Both sides, and the unconditional rows of guidance, share one network call per step: 4 rows per pair with guidance,
    2 without. States on the way are kept as they pass.

    Attributes:
        kept: which states are kept; None when none are.

    Raises:
        UserError: the sampler visits too few states, or they are not those of the model's noise path.
    """

    def __init__(
        self,
        family: Family,
        settings: Pairs,
        *,
        height_px: int | None = None,
        width_px: int | None = None,
        offload: bool = False,
    ) -> None:
        sampling = settings.sampling
        self.family, self.sampling, self.size_px = family, sampling, {"height_px": height_px, "width_px": width_px}
        self.latent_shape = family.latent_shape(height_px, width_px)
        self.offload = offload
        self.pairs_per_batch = max(1, sampling.batch_images // 2)
        self.kept = kept_states(self._scheduler(), family.noise_path, sampling.steps, settings.trajectory_states)
        self._unconditional: Conditioning | None = None

    def make(self, pairs: Sequence[PlannedPair], cost: Ledger) -> Drawn:
        """One batch of pairs.

        Args:
            cost: is told every row that the network evaluates.

        Raises:
            UserError: memory does not suffice for text or batch, or the network gives numbers that are not finite.
        """
        keeper = None if self.kept is None else StateKeeper(self.kept.calls)
        try:
            x_0 = self._sample(pairs, cost, keeper).to("cpu", self.family.dtype)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{2 * len(pairs)} pictures at once do not fit in memory; lower pairs.sampling.batch_images"
            ) from error
        if not x_0.isfinite().all():
            raise UserError(
                f"the network gave numbers that are not finite for a prompt between {pairs[0].prompt!r} and "
                f"{pairs[-1].prompt!r}; set model.frozen_dtype to bf16 or fp32"
            )
        states = None if keeper is None else WinLose.split(keeper.stacked().to(self.family.dtype))
        return Drawn(WinLose.split(x_0), states)

    def _scheduler(self) -> Any:
        return self.family.scheduler(self.sampling.sampler, **self.size_px)

    def _sample(self, pairs: Sequence[PlannedPair], cost: Ledger, keeper: StateKeeper | None) -> Tensor:
        def predict(x_t: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
            cost.add(len(x_t))
            return self.family.predict(x_t, timestep, conditioning)

        if self.offload:  # text encoders and denoiser are on the device in turn
            self.family.rest("denoiser")
        texts = [pair.prompt for pair in pairs] + [pair.degraded_prompt for pair in pairs]
        conditioning = encode_in_batches(self.family, texts)
        if self.sampling.guidance_scale > 1 and self._unconditional is None:
            self._unconditional = encode_in_batches(self.family, [""])
        if self.offload:
            self.family.rest("text_encoder")
        # One generator per row: a scheduler that adds noise as it goes gives both sides of a pair the same noise too.
        generators = [torch.Generator().manual_seed(pair.seed) for pair in (*pairs, *pairs)]
        x_T = torch.stack([torch.randn(self.latent_shape, generator=generator) for generator in generators])  # noqa: N806
        return sample(
            predict,
            self._scheduler(),
            x_T.to(self.family.device, torch.float32 if self.family.samples_in_float32 else self.family.dtype),
            conditioning,
            steps=self.sampling.steps,
            guidance_scale=self.sampling.guidance_scale,
            unconditional=self._unconditional,
            generator=generators,
            on_step=None if keeper is None else keeper.see,
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
