"""What all families share: parts that load on first use, latents, schedulers. An adapter adds text and the call."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..tensors import Conditioning
from . import autoencoder
from .folder import PipelineFolder
from .lora import merge_lora
from .lora_files import lora_digest

if TYPE_CHECKING:
    from ..diffusion.noise_path import NoisePath

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class PipelineFamily(abc.ABC):
    """A diffusers pipeline folder behind the `Family` interface.

    Args:
        folder: the base.
        dtype: precision of denoiser and text encoders: 'fp32', 'bf16' or 'fp16'.
        device: where the parts go when they load.
        source: how the user named the base (name, revision, variant), kept with a saved policy.
        lora: LoRAs that are merged into the denoiser whenever it loads; they are part of this base.

    Raises:
        UserError: a part that this family needs is missing or incomplete.
    """

    name: ClassVar[str]
    denoiser_part: ClassVar[str]
    """subfolder of the network that is trained, and the prefix of LoRA keys in diffusers"""
    text_parts: dict[str, str]
    """text encoder -> its tokenizer"""
    optional_text_parts: ClassVar[frozenset[str]] = frozenset()
    """text encoders that a checkpoint may leave out"""
    prompts_at_once: ClassVar[int] = 64
    """prompts per call of the text encoders"""
    samples_in_float32: ClassVar[bool] = False
    """whether the diffusers pipeline keeps latents in float32 between its steps, whatever the network's precision"""
    autocast_refused: ClassVar[Mapping[str, str]] = {}
    """mixed precision that this network cannot be trained in -> why, and the mend"""
    default_lora_targets: tuple[str, ...] = ("to_k", "to_q", "to_v", "to_out.0")
    samplers: ClassVar[dict[str, str]] = {
        "ddim": "DDIMScheduler",
        "euler": "EulerDiscreteScheduler",
        "dpm++": "DPMSolverMultistepScheduler",
    }

    def __init__(
        self,
        folder: PipelineFolder,
        *,
        dtype: str = "fp32",
        device: torch.device | str = "cpu",
        source: Mapping[str, Any] | None = None,
        lora: Sequence[Path] = (),
    ) -> None:
        if dtype not in DTYPES:
            raise UserError(f"unknown precision '{dtype}'; use one of {', '.join(DTYPES)}")
        self.folder = folder
        self.dtype = DTYPES[dtype]
        self.device = torch.device(device)
        self.source = dict(source or {"base": str(folder.path), "revision": None, "variant": folder.variant})
        self.lora = tuple(lora)
        if lora:
            self.source["lora"] = [str(path.resolve()) for path in lora]
        self._loaded: dict[str, Any] = {}
        self._resting: set[str] = set()
        absent = self.optional_text_parts - folder.parts().keys()
        self.text_parts = {name: tokenizer for name, tokenizer in self.text_parts.items() if name not in absent}
        folder.require((self.denoiser_part, "vae", "scheduler", *self.text_parts, *self.text_parts.values()))

    @property
    def base(self) -> Path:
        """The diffusers folder the model came from."""
        return self.folder.path

    # Parts

    @property
    def denoiser(self) -> nn.Module:
        """The network that is trained; frozen until a `Roles` says otherwise."""
        return self.part(self.denoiser_part)

    @denoiser.setter
    def denoiser(self, module: nn.Module) -> None:
        self._loaded[self.denoiser_part] = module

    def part(self, name: str) -> Any:
        """A network or tokenizer of the pipeline, loaded on first use."""
        if name not in self._loaded:
            if name in self.text_parts.values():
                encoder = next(encoder for encoder, tokenizer in self.text_parts.items() if tokenizer == name)
                self._loaded[name] = self.folder.load_tokenizer(name, int(self.folder.config(encoder)["vocab_size"]))
            else:
                self._loaded[name] = self._load_network(name, self.dtype_of(name))
        if name in self._resting:
            self._loaded[name].to(self.device)
            self._resting.discard(name)
        return self._loaded[name]

    def dtype_of(self, part: str) -> torch.dtype:
        """Precision that a network is loaded in: `dtype`, but for the autoencoder, where half overflows."""
        return torch.float32 if part == "vae" else self.dtype

    def load_denoiser(self, dtype: torch.dtype) -> nn.Module:
        """Load the network again in another precision, in place of the one that is here."""
        self._loaded.pop(self.denoiser_part, None)
        self.denoiser = self._load_network(self.denoiser_part, dtype)
        return self.denoiser

    def _load_network(self, name: str, dtype: torch.dtype) -> nn.Module:
        network: nn.Module = self.folder.load_model(name, dtype, self.device)
        for source in self.lora if name == self.denoiser_part else ():
            merge_lora(self, source, network)
        return network

    def loaded(self) -> set[str]:
        """Names of the parts that are in memory now."""
        return set(self._loaded)

    def release(self, part: str) -> None:
        """Let go of 'text_encoder' (all of them, and tokenizers), 'vae' or 'denoiser'; it loads again when used."""
        for name in self._names(part):
            self._loaded.pop(name, None)
            self._resting.discard(name)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def rest(self, part: str) -> None:
        """Move 'text_encoder' (all of them), 'vae' or 'denoiser' to main memory until it is next used, bit for bit."""
        for name in self._names(part):
            if isinstance(module := self._loaded.get(name), nn.Module):
                module.to("cpu")
                self._resting.add(name)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _names(self, part: str) -> list[str]:
        return {
            "text_encoder": [*self.text_parts, *self.text_parts.values()],
            "vae": ["vae"],
            "denoiser": [self.denoiser_part],
        }[part]

    def part_fingerprints(self) -> dict[str, str]:
        """Digests of denoiser, text encoders, autoencoder and scheduler configuration, and of merged LoRAs."""
        parts = self.folder.fingerprints((self.denoiser_part, *self.text_parts, "vae", "scheduler"))
        return parts | ({"lora": " ".join(lora_digest(source) for source in self.lora)} if self.lora else {})

    def fingerprint(self) -> str:
        """One digest that identifies this base: 16 hexadecimal digits over `part_fingerprints`."""
        text = "\n".join(f"{name} {digest}" for name, digest in sorted(self.part_fingerprints().items()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    # Noise and sampling

    @cached_property
    def noise_path(self) -> NoisePath:
        """alpha, sigma and the prediction type, from the checkpoint's scheduler."""
        from ..diffusion.noise_path import NoisePath

        return NoisePath.from_scheduler(self.scheduler())

    def scheduler(self, name: str = "default", *, height_px: int | None = None, width_px: int | None = None) -> Any:
        """A fresh diffusers scheduler: the checkpoint's own, or another with its configuration.

        Args:
            name: 'default', or a key of `samplers`.
            height_px: the picture's size, where the schedule depends on it (FLUX); None: the trained size.
            width_px: the same.

        Raises:
            UserError: this family cannot be sampled that way.
        """
        scheduler = self.folder.load_scheduler()
        if name == "default":
            return scheduler
        if name not in self.samplers:
            raise UserError(f"no sampler '{name}' for {self.name}; use one of default, {', '.join(self.samplers)}")
        import diffusers

        return getattr(diffusers, self.samplers[name]).from_config(scheduler.config)

    # Latents

    @property
    def pixels_per_latent(self) -> int:
        """How many pixels one latent spans in each direction."""
        return int(2 ** (len(self.folder.config("vae")["block_out_channels"]) - 1))

    def trained_size_px(self) -> tuple[int, int]:
        """(height, width) that the model was trained for."""
        size = self.folder.config(self.denoiser_part)["sample_size"]
        height, width = (size, size) if isinstance(size, int) else size
        return height * self.pixels_per_latent, width * self.pixels_per_latent

    def latent_shape(self, height_px: int | None = None, width_px: int | None = None) -> tuple[int, int, int]:
        """(C, H, W) of x_0 for a picture of this size; None means the size the model was trained for.

        Raises:
            UserError: a size that is no multiple of the latent grid.
        """
        sizes = []
        for given, trained in zip((height_px, width_px), self.trained_size_px(), strict=True):
            pixels = given or trained
            if pixels % self.size_multiple_px:
                raise UserError(f"{pixels} px is no multiple of {self.size_multiple_px}, which {self.name} needs")
            sizes.append(pixels // self.pixels_per_latent)
        return self.latent_channels, sizes[0], sizes[1]

    @property
    def latent_channels(self) -> int:
        """C of x_0."""
        return int(self.folder.config("vae")["latent_channels"])

    @property
    def size_multiple_px(self) -> int:
        """Picture sizes must be multiples of this."""
        return self.pixels_per_latent

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1] -> x_0: the posterior's mean, shifted and scaled, float32."""
        return autoencoder.encode(self.part("vae"), images)

    @torch.no_grad()
    def decode(self, x_0: Tensor) -> Tensor:
        """x_0 -> pictures [B, 3, H, W] in [0, 1], float32."""
        return autoencoder.decode(self.part("vae"), x_0, self.pixels_per_latent)

    # What an adapter adds

    @abc.abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Text to conditioning, equal to the diffusers pipeline's own `encode_prompt`; rows on the family's device."""

    @abc.abstractmethod
    def truncated(self, prompts: Sequence[str]) -> list[bool]:
        """Which prompts are longer than the text encoders take."""

    @abc.abstractmethod
    def predict(
        self, x_t: Tensor, timestep: Tensor, conditioning: Conditioning, *, denoiser: nn.Module | None = None
    ) -> Tensor:
        """The network's output in its native prediction space, [B, C, H, W], in x_t's dtype."""
