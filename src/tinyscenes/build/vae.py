"""The autoencoder: 32×32 pictures to 8×8 latents and back, trained on clean renders."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from ..render import render
from ..scenes import realize
from .captions import sample_true_description

LATENT_CHANNELS = 8
_KL_WEIGHT = 3e-4  # per latent value, beside a mean squared error per pixel value in [-1, 1]


def new_vae() -> AutoencoderKL:
    """The untrained autoencoder: two halvings, 8 latent channels."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=32,
        scaling_factor=1.0,
    )


def draw_images(count: int, rng: np.random.Generator) -> np.ndarray:
    """Clean renders of random scenes, uint8 [count, 32, 32, 3]."""
    return np.stack([render(realize(sample_true_description(rng), rng)) for _ in range(count)])


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(images: Tensor) -> np.ndarray:
    """float [N, 3, H, W] in [-1, 1] -> uint8 [N, H, W, 3]."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def train_vae(seed: int, steps: int, log: Callable[[str], None], batch: int = 32) -> AutoencoderKL:
    """Mean squared error plus a small KL term, AdamW with one-cycle learning rate; sets `scaling_factor` to 1 / std."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 1])
    vae = new_vae()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-3, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.05)
    started, losses = time.monotonic(), []
    for step in range(1, steps + 1):
        images = to_tensor(draw_images(batch, rng))
        posterior = vae.encode(images).latent_dist
        error = (vae.decode(posterior.sample()).sample - images).pow(2).mean()
        kl = 0.5 * (posterior.mean.pow(2) + posterior.var - 1 - posterior.logvar).mean()
        optimizer.zero_grad()
        (error + _KL_WEIGHT * kl).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(error.item())
        if step % 200 == 0 or step == steps:
            rate = step * batch / (time.monotonic() - started)
            log(f"vae {step}/{steps} mse {np.mean(losses[-200:]):.5f} kl {kl.item():.2f} {rate:.0f} images/s")
    with torch.no_grad():
        latents = vae.encode(to_tensor(draw_images(512, rng))).latent_dist.mean
    # One scale for all channels: whitening each would make the denoiser spend itself on channels that hold only noise.
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    return vae.eval()
