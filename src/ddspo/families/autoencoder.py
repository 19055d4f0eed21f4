"""The autoencoder between pictures and x_0, a few pictures at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PIXELS_AT_ONCE = 1024 * 1024
"""in float32 one picture of 1024 × 1024 px holds several GB on its way through a decoder, and fills a GPU by itself"""


def encode(vae: Any, pictures: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] in [0, 1] -> x_0: the posterior's mean, shifted and scaled, float32."""
    count = _at_once(pictures.shape[-2] * pictures.shape[-1])
    return torch.cat([_encode(vae, some.to(vae.device, torch.float32) * 2 - 1) for some in pictures.split(count)])


def decode(vae: Any, x_0: Tensor, pixels_per_latent: int) -> Tensor:
    """x_0 -> pictures [B, 3, H, W] in [0, 1], float32."""
    count = _at_once(x_0.shape[-2] * x_0.shape[-1] * pixels_per_latent**2)
    return torch.cat([_decode(vae, some.to(vae.device, torch.float32)) for some in x_0.split(count)])


def _at_once(pixels: int) -> int:
    return max(1, PIXELS_AT_ONCE // pixels)


def _encode(vae: Any, pictures: Tensor) -> Tensor:
    encoded = vae.encode(pictures)
    # SANA's autoencoder is deterministic: it gives latents in place of a distribution.
    latents: Tensor = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
    return (latents - _shift(vae)) * vae.config.scaling_factor


def _decode(vae: Any, x_0: Tensor) -> Tensor:
    latents = x_0 / vae.config.scaling_factor + _shift(vae)
    pictures: Tensor = vae.decode(latents, return_dict=False)[0]
    return (pictures / 2 + 0.5).clamp(0, 1)


def _shift(vae: Any) -> float:
    return float(getattr(vae.config, "shift_factor", None) or 0.0)
