"""A policy that differs from its reference, and whether what was saved of it predicts the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from ddspo.families.load import load_family
from ddspo.families.roles import Roles
from ddspo.tensors import Conditioning

from .family_cases import Case


def inputs(base: Path, case: Case) -> tuple[Tensor, Tensor, Conditioning]:
    """(x_t, timestep, conditioning) of two samples, the same for every model on this base."""
    family = load_family(str(base))
    x_t = torch.randn(2, *family.latent_shape(*case.size_px), generator=torch.Generator().manual_seed(1))
    timestep = family.noise_path.timesteps[torch.tensor([300, 700])]
    return x_t, timestep, family.encode_prompts(["a red cat", ""])


def shake(roles: Roles, seed: int = 5, size: float = 0.05) -> None:
    """Move what is trained, so that the policy differs from its reference."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in roles.trainable_parameters().values():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def same(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    """Equal within `tolerance` of the largest value, or of 1."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * max(1.0, theirs.abs().max().item()))


def plain_pipeline(folder: Path) -> Any:
    """The folder as diffusers alone reads it."""
    index = json.loads((folder / "model_index.json").read_text())
    absent = {name: None for name, value in index.items() if value == [None, None]}
    return DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True, **absent)
