"""Pictures of the policy on fixed prompts and seeds, drawn as training goes on."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from ..diffusion.sampler import sample
from ..files import atomic_path
from ..recipe import Recipe
from ..rng import normal_like_shape
from ..tensors import RolePredict

if TYPE_CHECKING:
    from ..families.base import Family
    from ..families.prompt_table import PromptTable
    from ..pairs.store import PairStore

COUNT = 4


def preview_prompts(recipe: Recipe, store: PairStore) -> list[str]:
    """The prompts of the recipe, else the first four different ones of the pairs; none when previews are off."""
    if recipe.training.preview_every_steps is None:
        return []
    chosen = (
        recipe.training.preview_prompts
        or tuple(dict.fromkeys(row["prompt"] for row in store.rows[: 64 * COUNT]))[:COUNT]
    )
    return list(chosen)


def is_preview_step(recipe: Recipe, done: int, *, last: bool) -> bool:
    """Before the first step, every N steps, and after the last."""
    every = recipe.training.preview_every_steps
    return every is not None and (done % every == 0 or last)


@torch.no_grad()
def draw_preview(
    recipe: Recipe, family: Family, predict: RolePredict, prompts: list[str], table: PromptTable, path: Path
) -> None:
    """Draw one picture per prompt, side by side, as a PNG file. Sampled like the evaluation's pictures.

    The same prompts and seeds every time, so that files of different steps show the same scenes. Decoding loads the
    autoencoder, which leaves memory again. Texts come from main memory, where the table of training keeps them.
    """
    sampling, device = recipe.evaluation.sampling, next(family.denoiser.parameters()).device
    size_px = {"height_px": recipe.model.height_px, "width_px": recipe.model.width_px}
    shape = family.latent_shape(**size_px)
    x_T = torch.stack([normal_like_shape(shape, recipe.seed, "preview", number) for number in range(len(prompts))])  # noqa: N806
    x_0 = sample(
        partial(predict, "policy"),
        family.scheduler(sampling.sampler, **size_px),
        x_T.to(device),
        table.lookup(prompts).to(device),
        steps=sampling.steps,
        guidance_scale=sampling.guidance_scale,
        unconditional=table.lookup([""]).to(device),
        generator=torch.Generator().manual_seed(recipe.seed),
    )
    if recipe.model.offload:
        family.rest("denoiser")
    pictures = torch.cat([family.decode(latent[None]) for latent in x_0])
    family.release("vae")
    _ = family.denoiser  # back from its rest
    with atomic_path(path) as partial_path:
        _row(pictures).save(partial_path, format="PNG")


def _row(pictures: Tensor) -> Image.Image:
    """[B, 3, H, W] in [0, 1] -> one picture of size H × B·W."""
    row = torch.cat(list(pictures.float().cpu()), dim=2)
    return Image.fromarray((row * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy())
