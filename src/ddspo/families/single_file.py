"""A LoRA as one file for ComfyUI and kohya-style tools, beside the one for diffusers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .pipeline import PipelineFamily

SINGLE_FILE = Path("single_file") / "ddspo_lora.safetensors"
"""in a subfolder, so that diffusers, given the policy's folder, finds one file only"""


def write_single_file(family: PipelineFamily, tensors: Mapping[str, Tensor], alpha: float, folder: Path) -> None:
    """Write `single_file/ddspo_lora.safetensors`, named as tools outside diffusers expect it.

    UNets: kohya's layout, `lora_unet_MODULE.lora_down.weight`, `.lora_up.weight` and `.alpha`; MODULE as diffusers
    names it for Stable Diffusion 1 and 2, and by the original blocks for SDXL. Transformers: diffusers' names,
    `transformer.MODULE.lora_A.weight` and `.lora_B.weight`. Not every reader of those knows alpha, so its effect is
    inside B, and a file without alpha counts once everywhere.

    Args:
        family: what the LoRA is for.
        tensors: peft's names without a prefix: MODULE.lora_A.weight [rank, inputs], MODULE.lora_B.weight.
        alpha: strength; the LoRA counts alpha / rank times.
        folder: the policy's folder.
    """
    from safetensors.torch import save_file

    if family.denoiser_part == "unet":
        named = _kohya(tensors, alpha)
        if family.name == "stable_diffusion_xl":
            named = _original_blocks(named, int(family.folder.config("unet").get("layers_per_block", 2)))
    else:
        named = {f"{family.denoiser_part}.{name}": _scaled(name, tensor, alpha) for name, tensor in tensors.items()}
    path = folder / SINGLE_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in sorted(named.items())}, path)


def _kohya(tensors: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya

    named = convert_state_dict_to_kohya({f"unet.{name}": tensor for name, tensor in tensors.items()})
    # diffusers writes the rank as alpha, whatever alpha was.
    return {name: torch.tensor(float(alpha)) if name.endswith(".alpha") else named[name] for name in named}


def _scaled(name: str, tensor: Tensor, alpha: float) -> Tensor:
    """B times alpha / rank, so that the LoRA has its strength where the reader takes alpha for equal to rank."""
    return tensor * (alpha / tensor.shape[1]) if ".lora_B." in name else tensor


def _original_blocks(named: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Block names of the original SDXL code in place of diffusers'; all or none, as readers do not mix them.

    A block of `layers` attentions is followed by one step of down- or upsampling, and the first input block is the
    convolution in front; layers other than attentions keep diffusers' names, which ComfyUI reads as well.
    """

    def number(match: re.Match[str]) -> str:
        place = int(match["block"]) * (layers + 1) + int(match["layer"])
        return f"input_blocks_{1 + place}_1_" if match["way"] == "down" else f"output_blocks_{place}_1_"

    renamed = {}
    for name, tensor in named.items():
        new, found = re.subn(r"(?P<way>down|up)_blocks_(?P<block>\d+)_attentions_(?P<layer>\d+)_", number, name)
        new, middle = re.subn(r"mid_block_attentions_0_", "middle_block_1_", new)
        if not found + middle:
            return named
        renamed[new] = tensor
    return renamed
