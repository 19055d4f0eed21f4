"""LoRA files, ours and those made elsewhere, in every layout that diffusers reads: its own, peft's, kohya's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import UserError, first_line

if TYPE_CHECKING:
    from .pipeline import PipelineFamily

WEIGHTS_FILE = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class LoraWeights:
    """A LoRA in diffusers' naming.

    Attributes:
        tensors: every name starts with the pipeline part that it belongs to.
        alphas: strengths by layer, from layouts that store them as tensors.
        metadata: diffusers' own record of rank and alpha, from layouts that have one.
    """

    tensors: dict[str, Tensor]
    alphas: Mapping[str, Any] | None
    metadata: Mapping[str, Any] | None


def lora_file(source: Path) -> Path:
    """The safetensors file of a LoRA given as a file, a diffusers folder, or the folder of a training run.

    Raises:
        UserError: nothing there, several files to choose from, or a pickled one.
    """
    if source.is_file():
        if source.suffix != ".safetensors":
            raise UserError(f"{source} is not a .safetensors file; pickled weights are never loaded")
        return source
    if not source.is_dir():
        raise UserError(f"{source} does not exist; give a LoRA's .safetensors file or its folder")
    for folder in (source, source / "policy"):
        if (folder / WEIGHTS_FILE).is_file():
            return folder / WEIGHTS_FILE
    files = sorted(source.glob("*.safetensors"))
    if len(files) != 1:
        found = f"{len(files)} .safetensors files" if files else f"no {WEIGHTS_FILE}"
        raise UserError(f"{source} has {found}; give the folder of a LoRA, or its file itself")
    return files[0]


def lora_digest(source: Path) -> str:
    """A digest of the LoRA's file: the same wherever it lies and whatever it is called."""
    with lora_file(source).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def read_lora(family: PipelineFamily, source: Path) -> LoraWeights:
    """Read a LoRA in any layout that the family's diffusers pipeline reads; all of it must be for the denoiser.

    Raises:
        UserError: not found, damaged, in no known layout, or made for other parts of a pipeline or another kind of one.
    """
    import diffusers

    file, part = lora_file(source), family.denoiser_part
    _check_names(file)
    options: dict[str, Any] = {"return_lora_metadata": True}
    if part == "unet":
        options["unet_config"] = SimpleNamespace(**family.folder.config(part))  # kohya's SDXL names count blocks
    if family.folder.pipeline_class == "FluxPipeline":
        options["return_alphas"] = True
    try:
        tensors, *alphas, metadata = getattr(diffusers, family.folder.pipeline_class).lora_state_dict(
            str(file.parent), weight_name=file.name, use_safetensors=True, local_files_only=True, **options
        )
    except Exception as error:
        kind = family.folder.pipeline_class
        raise UserError(f"{file} cannot be read as a LoRA of a {kind}: {first_line(error)}") from error
    others = sorted({name.split(".")[0] for name in tensors if not name.startswith(f"{part}.")})
    if others:
        raise UserError(
            f"{file} holds weights of {', '.join(others[:3])}; only a LoRA of a {family.name}'s {part} alone is of use"
        )
    strengths = alphas[0] if alphas and alphas[0] else None
    return LoraWeights(tensors, strengths, None if strengths else metadata)


def _check_names(file: Path) -> None:
    try:
        with safe_open(file, framework="pt") as opened:
            names = list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is damaged ({error}); fetch or save it again") from error
    if any("dora_scale" in name or "lora_magnitude" in name for name in names):
        raise UserError(f"{file} is a DoRA; diffusers would use it as a LoRA, which it is not: merge it into its base")
