"""Pictures for prompts: the sampler, then the autoencoder, in batches."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..diffusion.sampler import sample
from ..families.base import Family
from ..families.prompt_table import PromptTable
from ..processes import Process
from ..tensors import Conditioning

if TYPE_CHECKING:
    from ..families.pipeline import PipelineFamily
    from ..ledger import Ledger
    from ..recipe import Model, Sampling

#: the unconditional row of guidance
UNCONDITIONAL = ""
_DECODED_CELLS = (
    16 * 64 * 64
)  # latent cells decoded at once: 16 pictures of 512×512 pixels; decoding outweighs denoising


def prompts_on_disk(family: PipelineFamily, prompts: Iterable[str], folder: Path) -> PromptTable:
    """The prompts and `UNCONDITIONAL`, encoded into `folder` and read from there: with FLUX a prompt takes 4 MB.

    Raises:
        UserError: disk or device memory is too small, or a file in the folder is damaged.
    """
    from ..families.stored_prompts import StoredPromptTable

    family.release("denoiser")  # text encoders need the room
    # Evaluating is one process's work, whatever it was launched by.
    return StoredPromptTable(family, [UNCONDITIONAL, *prompts], folder, process=Process(0, 1))


def load_denoiser(family: PipelineFamily, policy: Path | None, model: Model) -> nn.Module:
    """The network of a policy, or (None) the base's own as it is on disk; what was there before goes first."""
    gc.collect()  # an adapted network is tied into reference cycles, and would stay in memory beside the new one
    family.release("denoiser")
    if policy is None:
        return family.denoiser
    from ..families.policy import load_policy

    # A variant is known to the policy's own record only; otherwise the base may have moved since training.
    base = None if model.variant else str(family.base)
    return load_policy(policy, base=base, dtype=model.frozen_dtype, device=family.device).denoiser


@torch.no_grad()
def generate(
    family: Family,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampling: Sampling,
    prompt_table: PromptTable,
    *,
    height_px: int | None = None,
    width_px: int | None = None,
    denoiser: nn.Module | None = None,
    ledger: Ledger | None = None,
    negative_prompts: Sequence[str] | None = None,
) -> NDArray[np.uint8]:
    """Draw one picture per prompt.

    Args:
        family: the model; its autoencoder is loaded here.
        prompts: N of them.
        seeds: one per picture. A CPU generator with that seed draws the initial noise and, where the sampler is
            stochastic, the noise of its steps: a picture follows from its seed and prompt, not from its neighbors.
        sampling: scheduler, steps, guidance and how many pictures are drawn at once.
        prompt_table: holds every prompt and, with guidance, `UNCONDITIONAL`.
        height_px: None: the size that the model was trained for.
        width_px: likewise.
        denoiser: a policy's network in place of the family's own.
        ledger: counts the rows that the denoiser is called with.
        negative_prompts: N texts of the table that guidance points away from; None: `UNCONDITIONAL` for all.

    Returns:
        uint8 [N, H, W, 3].
    """
    shape = family.latent_shape(height_px, width_px)

    def predict(x_t: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        if ledger is not None:
            ledger.add(len(x_t))
        return family.predict(x_t, timestep, conditioning, denoiser=denoiser)

    unconditional = prompt_table.lookup([UNCONDITIONAL]) if sampling.guidance_scale > 1 else None
    images = []
    for start in range(0, len(prompts), sampling.batch_images):
        rows = slice(start, start + sampling.batch_images)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[rows]]
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        x_0 = sample(
            predict,
            family.scheduler(sampling.sampler, height_px=height_px, width_px=width_px),
            noise.to(prompt_table.device),
            prompt_table.lookup(prompts[rows]),
            steps=sampling.steps,
            guidance_scale=sampling.guidance_scale,
            unconditional=(
                unconditional
                if negative_prompts is None or unconditional is None
                else prompt_table.lookup(negative_prompts[rows])
            ),
            generator=generators,
        )
        images.append(decode_uint8(family, x_0))
    return np.concatenate(images)


@torch.no_grad()
def decode_uint8(family: Family, x_0: Tensor) -> NDArray[np.uint8]:
    """x_0 [N, C, H, W] -> pictures uint8 [N, height, width, 3], rounded to the nearest level as diffusers does."""
    at_once = max(1, _DECODED_CELLS // (x_0.shape[-2] * x_0.shape[-1]))
    decoded = [(family.decode(part) * 255).round().byte().cpu() for part in x_0.split(at_once)]
    return torch.cat(decoded).permute(0, 2, 3, 1).contiguous().numpy()
