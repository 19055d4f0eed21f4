"""The denoiser: a Stable Diffusion UNet on 8×8 latents, trained with imperfect captions and v-prediction."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from ..render import render
from ..scenes import Description, realize
from .captions import CaptionNoise, caption, sample_true_description
from .text import HIDDEN, tokenize
from .vae import LATENT_CHANNELS, to_tensor


def new_unet() -> UNet2DConditionModel:
    """Untrained UNet, 2.5M parameters, cross-attention at both levels."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(48, 96),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=HIDDEN,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's own schedule, v-prediction."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )


@dataclass(frozen=True)
class LatentBank:
    """Encoded training pictures with what each truly shows; captions are drawn anew each time one is used."""

    latents: Tensor  # float16 [N, C, 8, 8], scaled
    truths: list[Description]

    @classmethod
    @torch.no_grad()
    def draw(cls, vae: AutoencoderKL, size: int, rng: np.random.Generator, log: Callable[[str], None]) -> LatentBank:
        """Render and encode `size` scenes."""
        started, latents, truths = time.monotonic(), [], []
        for _ in range(0, size, 256):
            described = [sample_true_description(rng) for _ in range(256)]
            images = np.stack([render(realize(description, rng)) for description in described])
            latents.append((vae.encode(to_tensor(images)).latent_dist.mean * vae.config.scaling_factor).half())
            truths += described
        log(f"bank of {len(truths)} latents in {time.monotonic() - started:.0f} s")
        return cls(torch.cat(latents), truths)


@dataclass
class UNetTraining:
    """Everything one step of the denoiser's training needs; `run` yields after every `report_every` steps."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    bank: LatentBank
    noise: CaptionNoise
    seed: int
    batch: int = 64
    learning_rate: float = 1e-3
    ema_decay: float = 0.998

    def __post_init__(self) -> None:
        self.average = copy.deepcopy(self.unet).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.unet.parameters(), lr=self.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.alphas = new_scheduler().alphas_cumprod
        self.images = 0
        self.loss = float("nan")

    def _step(self, rng: np.random.Generator, rate: float) -> None:
        rows = rng.integers(len(self.bank.truths), size=self.batch)
        captions = [caption(self.bank.truths[row], self.noise, rng) for row in rows]
        with torch.no_grad():
            states = self.text_encoder(tokenize(self.tokenizer, captions)).last_hidden_state
        x_0 = self.bank.latents[torch.from_numpy(rows)].float()
        noise = torch.from_numpy(rng.standard_normal(x_0.shape, np.float32))
        timestep = torch.from_numpy(rng.integers(0, 1000, self.batch))
        alpha, sigma = (
            self.alphas[timestep].sqrt()[:, None, None, None],
            (1 - self.alphas[timestep]).sqrt()[:, None, None, None],
        )
        predicted = self.unet(alpha * x_0 + sigma * noise, timestep, states).sample
        loss = (predicted - (alpha * noise - sigma * x_0)).pow(2).mean()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * rate
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        self.images += self.batch
        self.loss = loss.item() if np.isnan(self.loss) else 0.99 * self.loss + 0.01 * loss.item()
        decay = min(self.ema_decay, (1 + self.images // self.batch) / (10 + self.images // self.batch))
        with torch.no_grad():
            mine, theirs = list(self.average.parameters()), list(self.unet.parameters())
            torch._foreach_lerp_(mine, theirs, 1 - decay)

    def run(self, total_images: int, report_every: int) -> Iterator[int]:
        """Train to `total_images`, warm-up then linear decay to 2 % of the learning rate; yields images seen."""
        while self.images < total_images:
            step = self.images // self.batch
            rng = np.random.default_rng([self.seed, 3, step])
            self._step(rng, min(1.0, step / 200) * max(0.02, 1 - self.images / total_images))
            if self.images % (report_every * self.batch) < self.batch or self.images >= total_images:
                yield self.images

    def save(self, path: Path) -> None:
        """Weights, average and optimizer moments in one safetensors file, written whole or not at all."""
        tensors = {f"unet.{name}": value for name, value in self.unet.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        partial = path.with_suffix(".partial")
        save_file(
            {name: value.contiguous().clone() for name, value in tensors.items()}, partial, {"images": str(self.images)}
        )
        partial.replace(path)

    def load(self, path: Path, images: int) -> None:
        """Take up where `save` left off."""
        tensors = load_file(path)
        for prefix, module in (("unet.", self.unet), ("average.", self.average)):
            module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, part = name.split(".", 2)
                state.setdefault(int(index), {})[part] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.images = images
