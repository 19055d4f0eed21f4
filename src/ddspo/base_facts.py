"""Sizes of a base model from its configuration files and weight headers, without loading it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UserError
from .files import read_json
from .recipe import Model

_DENOISERS = ("unet", "transformer")
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_JOINT_ATTENTION = (
    *(f"attn.{name}" for name in _ATTENTION),
    *(f"attn.{name}" for name in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")),
)
LORA_TARGETS = {"StableDiffusion3Pipeline": _JOINT_ATTENTION, "FluxPipeline": _JOINT_ATTENTION}
"""what LoRA attaches to by default, as the families say; `_ATTENTION` elsewhere"""
TEXT_TOKENS = {"StableDiffusion3Pipeline": 77 + 256, "SanaPipeline": 300, "FluxPipeline": 512}
"""tokens that the denoiser is told, where they are not CLIP's 77"""


@dataclass(frozen=True)
class BaseFacts:
    """What costs depend on."""

    channels: int
    sample_size: int
    """side of the latent that the denoiser was trained for"""
    latent_scale: int
    """picture pixels per latent pixel, along a side"""
    scheduler: str
    """class name of the checkpoint's own scheduler"""
    shapes: dict[str, tuple[int, ...]]
    """shape of each weight of the denoiser, by name"""
    pipeline: str = ""
    """class name of the pipeline"""
    levels: int = 0
    """resolutions of a UNet; 0: a transformer, which has one"""
    patch: int = 1
    """latent pixels per token of a transformer, along a side"""
    text_numbers: int = 0
    """numbers in the stored text embedding of one prompt, pooled text not counted"""
    text_parameters: int = 0
    """numbers in all text encoders"""
    vae_parameters: int = 0
    """numbers in the autoencoder"""
    vae_width: int = 0
    """channels of its widest layer at the pictures' own size"""

    @property
    def parameters(self) -> int:
        """Numbers in the denoiser."""
        return _numbers(self.shapes)

    def lora_width(self, targets: tuple[str, ...] = ()) -> int:
        """Inputs + outputs, summed over the layers that LoRA attaches to; times the rank: its number of parameters."""
        return sum(sum(shape[:2]) for shape in self.adapted(targets).values())

    def adapted(self, targets: tuple[str, ...] = ()) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights that LoRA attaches to; no targets: the family's own."""
        wanted = targets or LORA_TARGETS.get(self.pipeline, _ATTENTION)
        suffixes = tuple(f".{target}.weight" for target in wanted)
        return {name: shape for name, shape in self.shapes.items() if name.endswith(suffixes) and len(shape) >= 2}

    def picture_px(self, model: Model) -> tuple[int, int]:
        """(height, width) of the pictures that this recipe makes."""
        side = self.sample_size * self.latent_scale
        return model.height_px or side, model.width_px or side

    def latent_shape(self, model: Model) -> tuple[int, int, int]:
        """(C, H, W) of x_0."""
        height, width = self.picture_px(model)
        return self.channels, height // self.latent_scale, width // self.latent_scale


def read_base_facts(model: Model) -> BaseFacts | None:
    """The facts of `model.base`, or None when it is a hub id whose files are not in the local cache.

    Raises:
        UserError: the folder exists and is not a diffusers pipeline.
    """
    folder = _local_folder(model)
    if folder is None:
        return None
    denoiser = next((folder / name for name in _DENOISERS if (folder / name / "config.json").is_file()), None)
    if denoiser is None or not (folder / "model_index.json").is_file():
        raise UserError(
            f"model.base: {folder} is not a diffusers folder (model_index.json and a unet or transformer folder)"
        )
    config, vae, scheduler = (
        _optional(path)
        for path in (denoiser / "config.json", folder / "vae/config.json", folder / "scheduler/scheduler_config.json")
    )
    index = _optional(folder / "model_index.json")
    pipeline = str(index.get("_class_name", ""))
    flux = pipeline == "FluxPipeline"  # packs latents two by two, and says no size: the pipeline's is 1024 px
    size = config.get("sample_size", 128 if flux else 64)
    blocks = vae.get("block_out_channels") or vae.get("encoder_block_out_channels") or [0] * 4
    return BaseFacts(
        channels=int(vae.get("latent_channels") or config.get("in_channels", 4)),
        sample_size=int(size[0] if isinstance(size, list) else size),
        latent_scale=2 ** (len(blocks) - 1),
        scheduler=str(scheduler.get("_class_name", "")),
        shapes=_weight_shapes(denoiser, model.variant),
        pipeline=pipeline,
        levels=len(config.get("block_out_channels", ())),
        patch=2 if flux else int(config.get("patch_size") or 1),
        text_numbers=TEXT_TOKENS.get(pipeline, 77) * _text_width(config),
        text_parameters=sum(
            _numbers(_weight_shapes(folder / name, model.variant, "model"))
            for name, part in index.items()
            if name.startswith("text_encoder") and isinstance(part, list) and part[0]
        ),
        vae_parameters=_numbers(_weight_shapes(folder / "vae", model.variant)),
        vae_width=_decoder_width(vae),
    )


def _decoder_width(vae: dict[str, Any]) -> int:
    """AutoencoderKL's last block begins with the channels of the one before it, SANA's comes down to its own first."""
    if widths := vae.get("decoder_block_out_channels"):
        return int(widths[0])
    widths = vae.get("block_out_channels") or [0]
    return int(widths[min(1, len(widths) - 1)])


def _text_width(config: dict[str, Any]) -> int:
    names = ("joint_attention_dim", "caption_channels", "cross_attention_dim")
    width = next((config[name] for name in names if config.get(name)), 0)
    return int(width[0] if isinstance(width, list) else width)


def _local_folder(model: Model) -> Path | None:
    if model.base == "tinyscenes":
        import tinyscenes

        return Path(tinyscenes.pipeline_folder())
    if Path(model.base).is_dir():
        return Path(model.base)
    if model.base.count("/") != 1 or model.base.startswith((".", "/", "~")):
        raise UserError(
            f"model.base: {model.base} is neither a folder, nor a Hugging Face id (owner/name), nor 'tinyscenes'"
        )
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(model.base, "model_index.json", revision=model.revision)
    folder = Path(index).parent if isinstance(index, str) else None
    return folder if folder and any((folder / name / "config.json").is_file() for name in _DENOISERS) else None


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _numbers(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _weight_shapes(
    part: Path, variant: str | None, stem: str = "diffusion_pytorch_model"
) -> dict[str, tuple[int, ...]]:
    """Of the files that would be loaded: the variant's, where this part has them, else the plain ones."""
    for suffix in dict.fromkeys([re.escape(f".{variant}") if variant else "", ""]):
        name = re.compile(rf"{stem}({suffix}(-\d+-of-\d+)?|(-\d+-of-\d+)?{suffix})\.safetensors")
        files = [path for path in sorted(part.glob("*.safetensors")) if name.fullmatch(path.name)]
        whole = [path for path in files if "-of-" not in path.name]
        shapes: dict[str, tuple[int, ...]] = {}
        for path in whole or files:
            shapes |= _header_shapes(path)
        if shapes:
            return shapes
    return {}


def _header_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes by name from a safetensors header: 8 bytes of length, little-endian, then JSON."""
    with path.open("rb") as file:
        try:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        except (ValueError, MemoryError) as error:
            raise UserError(f"{path} is not a safetensors file, or is cut off; download it again") from error
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
