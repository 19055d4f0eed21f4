"""A training step of any family in three ways: bare network calls, ours, and as the published code arranges it."""

from __future__ import annotations

from pathlib import Path

import torch
from step import PROMPTS, Ways, make_pairs

from ddspo.families.load import load_family
from ddspo.recipe import Recipe
from ddspo.training.data import noise_path_on
from ddspo.training.run import Run
from ddspo.training.setup import start_accelerator


class FamilyWays(Ways):
    """The three ways at a chosen size; the published one has a reference network of its own.

    Args:
        recipe: of the run.
        folder: for pairs and the run's files.
        published: whether to hold what the published arrangement does.
    """

    def __init__(self, recipe: Recipe, folder: Path, *, published: bool = True) -> None:
        self.recipe, self.accelerator = recipe, start_accelerator(recipe, folder / "run")
        model, device = recipe.model, self.accelerator.device
        family = load_family(model.base, dtype=model.frozen_dtype, device=device)
        shape = family.latent_shape(model.height_px, model.width_px)
        pairs = 2 * recipe.training.global_batch_pairs  # few, since each prompt is encoded
        self.store = make_pairs(folder / "pairs", shape, family.fingerprint(), pairs)
        self.path = noise_path_on(family.noise_path, device)
        (folder / "run").mkdir()
        self.run = Run(recipe, self.store, folder / "run", family, self.accelerator)
        self.batches = [micro.pairs for micro in self.run.batches.micro_batches(0)]
        self.parameters = list(self.run.parameters.values())
        if published:
            self.adamw = torch.optim.AdamW(self.parameters, lr=0.0)
            self.plain = load_family(model.base, dtype=model.frozen_dtype, device=device)
            self.plain.part(self.plain.denoiser_part)
            self.plain.encode_prompts(PROMPTS[:1])
            self.plain.part("vae")

    def floor(self, step: int) -> None:
        for batch in self.batches:
            rows = batch.prompt.repeat(3)
            self.run.roles.predict("reference", batch.noise.repeat(3, 1, 1, 1), batch.timestep.repeat(3), rows)
            x_t, timestep = batch.noise.repeat(2, 1, 1, 1), batch.timestep.repeat(2)
            self.run.roles.predict("policy", x_t, timestep, batch.prompt.repeat(2)).mean().backward()
        self.run.optimizer.zero_grad(set_to_none=True)

    def held_bytes(self, name: str) -> int:
        """Weights that a way needs in memory: ours the run's networks, the published one its own and all parts."""
        networks = {id(module): module for module in (self.run.roles.trained, self.run.roles._frozen) if module}
        if name == "published":
            networks = {id(self.run.roles.trained): self.run.roles.trained}
            parts = [self.plain.denoiser, self.plain.part("vae")]
            parts += [self.plain.part(encoder) for encoder in self.plain.text_parts]
            networks |= {id(module): module for module in parts}
        return sum(p.numel() * p.element_size() for module in networks.values() for p in module.parameters())
