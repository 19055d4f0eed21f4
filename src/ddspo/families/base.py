"""What a model family must offer to the rest of the project."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from ..tensors import Conditioning

if TYPE_CHECKING:
    from ..diffusion.noise_path import NoisePath


class Family(Protocol):
    """One kind of text-to-image model behind a narrow interface: no loss, no noise draw, no timestep draw.

    Parts load on first use and can be let go: the denoiser never waits for a text encoder or an autoencoder.
    """

    device: torch.device
    """where networks run and conditioning lies"""
    dtype: torch.dtype
    """precision of what is frozen"""
    default_lora_targets: tuple[str, ...]
    """module name suffixes that LoRA attaches to by default"""
    prompts_at_once: ClassVar[int]
    """how many prompts the text encoders take per call; results depend on it in rounding only"""
    samples_in_float32: ClassVar[bool]
    """whether latents are float32 between the steps of sampling, whatever `dtype` is, as in the diffusers pipeline"""

    @property
    def base(self) -> Path:
        """The diffusers folder the model came from."""
        ...

    @property
    def noise_path(self) -> NoisePath:
        """alpha, sigma and the prediction type of the network."""
        ...

    @property
    def denoiser(self) -> nn.Module:
        """The network that is trained."""
        ...

    def latent_shape(self, height_px: int | None = None, width_px: int | None = None) -> tuple[int, int, int]:
        """(C, H, W) of x_0 for a picture of this size; None means the size the model was trained for."""
        ...

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Text to conditioning, equal to the pipeline's own `encode_prompt`; '' gives the unconditional rows."""
        ...

    def truncated(self, prompts: Sequence[str]) -> list[bool]:
        """Which prompts are longer than the text encoder takes."""
        ...

    def predict(
        self, x_t: Tensor, timestep: Tensor, conditioning: Conditioning, *, denoiser: nn.Module | None = None
    ) -> Tensor:
        """The network's output in its native prediction space, [B, C, H, W], in x_t's dtype.

        Args:
            x_t: noised latents, [B, C, H, W].
            timestep: [B].
            conditioning: B rows.
            denoiser: a stand-in for `self.denoiser` of the same signature (a frozen copy, a distributed wrapper).
        """
        ...

    def scheduler(self, name: str = "default", *, height_px: int | None = None, width_px: int | None = None) -> Any:
        """A fresh diffusers scheduler: the checkpoint's own, or 'ddim', 'euler', 'dpm++' with its configuration.

        The size matters where the schedule depends on it (FLUX); None means the size the model was trained for.
        """
        ...

    def encode_images(self, images: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1] -> x_0 (scaled latents)."""
        ...

    def decode(self, x_0: Tensor) -> Tensor:
        """x_0 -> pictures [B, 3, H, W] in [0, 1]."""
        ...

    def release(self, part: str) -> None:
        """Let go of 'text_encoder', 'vae' or 'denoiser'; it loads again when next used."""
        ...

    def rest(self, part: str) -> None:
        """Move 'text_encoder', 'vae' or 'denoiser' to main memory until it is next used; nothing changes."""
        ...

    def fingerprint(self) -> str:
        """A digest that identifies the base's weights and configurations, the same on every machine."""
        ...
