"""From the name of a base to its family: 'tinyscenes', a local folder, or a model on the Hugging Face hub."""

from __future__ import annotations

import contextlib
import importlib
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..cpu_memory import keep_freed_memory
from ..errors import UserError
from ..files import read_json
from ..model_card import CARD
from .distilled import few_step_sign
from .flux import Flux
from .folder import INDEX, PipelineFolder
from .pipeline import PipelineFamily
from .sana import Sana
from .stable_diffusion import StableDiffusion
from .stable_diffusion_3 import StableDiffusion3
from .stable_diffusion_xl import StableDiffusionXL

if TYPE_CHECKING:
    from ..recipe import Model

EMBEDDED = "tinyscenes"
FAMILIES: dict[str, type[PipelineFamily]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "SanaPipeline": Sana,
    "FluxPipeline": Flux,
}
"""`_class_name` in model_index.json -> adapter"""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_warned: set[str] = set()
_log = logging.getLogger(__name__)


def load_family(
    base: str,
    *,
    dtype: str = "fp32",
    device: torch.device | str = "cpu",
    revision: str | None = None,
    variant: str | None = None,
    lora: Sequence[Path] = (),
) -> PipelineFamily:
    """Find a pretrained model and put it behind its family's adapter; networks load on first use.

    Args:
        base: 'tinyscenes' (embedded), a diffusers folder, or a Hugging Face id (owner/name).
        dtype: precision of what is frozen: 'fp32', 'bf16', 'fp16'.
        device: where networks go.
        revision: branch, tag or commit on the hub.
        variant: weight file variant such as 'fp16'.
        lora: LoRAs that are merged into the base, in this order.

    Raises:
        UserError: not found, incomplete, or of a family that is not supported.
    """
    path = find_folder(base, revision=revision, variant=variant)
    folder = PipelineFolder(path, variant)
    cls = _adapter(folder)
    if torch.device(device).type == "cpu":
        keep_freed_memory()
    local = Path(base).expanduser().is_dir()
    name = str(path.resolve()) if local else base
    source = {"base": name, "revision": revision, "variant": variant}
    family = cls(folder, dtype=dtype, device=device, source=source, lora=lora)
    sign = few_step_sign(folder, path.resolve().name if local else base)
    if sign is not None and name not in _warned:
        _warned.add(name)
        _log.warning(
            "%s looks like a few-step distilled model (%s); training on noised pictures is not valid for those",
            base,
            sign,
        )
    return family


def load_model(model: Model, device: torch.device | str = "cpu") -> PipelineFamily:
    """The family that a recipe's `model` section describes; see `load_family`."""
    return load_family(
        model.base,
        dtype=model.frozen_dtype,
        device=device,
        revision=model.revision,
        variant=model.variant,
        lora=model.lora,
    )


def find_folder(base: str, *, revision: str | None = None, variant: str | None = None) -> Path:
    """The local folder of a base; a hub model is downloaded into the Hugging Face cache first.

    Raises:
        UserError: nothing by that name here or on the hub.
    """
    if base == EMBEDDED:
        return _embedded_folder()
    local = Path(base).expanduser()
    if local.is_dir():
        return local
    if local.is_file():
        raise UserError(
            f"{base} is a single file; make it a folder with diffusers' from_single_file(...).save_pretrained(folder)"
        )
    if base.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(base):
        raise UserError(
            f"{base} does not exist; give '{EMBEDDED}', a diffusers folder or a Hugging Face id (owner/name)"
        )
    return _download(base, revision, variant)


def _adapter(folder: PipelineFolder) -> type[PipelineFamily]:
    cls = FAMILIES.get(folder.pipeline_class)
    if cls is None:
        raise UserError(
            f"{folder.path} is a {folder.pipeline_class}, which is not supported; supported are {', '.join(FAMILIES)}"
        )
    return cls


def _embedded_folder() -> Path:
    try:
        path = Path(importlib.import_module("tinyscenes").pipeline_folder())
    except (ImportError, AttributeError) as error:
        raise UserError(
            "the embedded model 'tinyscenes' is not installed; install ddspo again or set model.base to a folder"
        ) from error
    if not (path / INDEX).is_file():
        raise UserError(f"{path} lacks the embedded model's weights; install ddspo again or set model.base to a folder")
    return path


def _download(base: str, revision: str | None, variant: str | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    wanted: dict[str, Any] = {"revision": revision}
    try:
        index = read_json(Path(hf_hub_download(base, INDEX, **wanted)))
        class_name = index.get("_class_name")
        if class_name in FAMILIES:
            from diffusers import DiffusionPipeline

            folder = Path(DiffusionPipeline.download(base, variant=variant, use_safetensors=True, **wanted))
            with contextlib.suppress(OSError, ValueError, HfHubHTTPError):
                hf_hub_download(base, CARD, **wanted)  # says the license; a pipeline's download leaves it out
            return folder
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise UserError(
            f"no folder {base} here, and it cannot be fetched from the Hugging Face hub: {_reason(error, variant)}"
        ) from error
    raise UserError(f"{base} is a {class_name}, which is not supported; supported are {', '.join(FAMILIES)}")


def _reason(error: Exception, variant: str | None) -> str:
    """What went wrong, and the mend; in words of ours, since messages of the libraries hold addresses and headers."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "it is gated; accept its terms on its page and log in with 'hf auth login'"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such model; check the name, or log in with 'hf auth login' if it is private"
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such model.revision"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"it has no {INDEX}, so it is no diffusers pipeline"
    if isinstance(error, ValueError) and variant:
        return f"it has no files of model.variant '{variant}'"
    return "check the name and the network, or download it where there is one ('hf download')"
