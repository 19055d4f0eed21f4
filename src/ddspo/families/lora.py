"""LoRA on a denoiser: attach with a stateless start, switch off for the reference, write in diffusers' format."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import recipe
from ..errors import UserError
from ..rng import torch_generator

ADAPTER = "policy"
WEIGHTS_FILE = "pytorch_lora_weights.safetensors"


def attach_lora(denoiser: nn.Module, settings: recipe.Lora, default_targets: tuple[str, ...], seed: int) -> None:
    """Add the trainable adapter `policy` in float32; its output is zero until it is trained.

    W x becomes W x + (alpha / rank) B A x with A uniform in ±1/sqrt(inputs) (peft's own start) and B = 0
    (Hu et al. 2021, arXiv 2106.09685). Every A is drawn from (seed, its name), so the start depends on no other
    draw and on no device.

    Raises:
        UserError: a target matches no layer of the denoiser, or the denoiser already has an adapter.
    """
    from peft import LoraConfig

    if getattr(denoiser, "peft_config", None):
        raise UserError("the denoiser already has a LoRA; merge it into the weights first, or train from its base")
    targets = settings.targets or default_targets
    names = [name for name, module in denoiser.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    unmatched = [
        target for target in targets if not any(name == target or name.endswith(f".{target}") for name in names)
    ]
    if unmatched:
        raise UserError(f"training.lora.targets: no linear or convolution layer's name ends in {', '.join(unmatched)}")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=_plain_number(settings.alpha or settings.rank),
        target_modules=list(targets),
        lora_dropout=0.0,
        init_lora_weights=True,
    )
    with torch.random.fork_rng(devices=[]):  # peft draws a start of its own, which is replaced
        denoiser.add_adapter(config, adapter_name=ADAPTER)  # type: ignore[operator]
    for name, parameter in denoiser.named_parameters():
        if not parameter.requires_grad:
            continue
        parameter.data = parameter.data.float()
        if ".lora_A." in name:
            bound = 1 / math.sqrt(parameter[0].numel())
            start = torch.rand(parameter.shape, generator=torch_generator(seed, "lora", name))
            parameter.data.copy_((2 * start - 1) * bound)
        else:
            parameter.data.zero_()


def _plain_number(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


@contextlib.contextmanager
def adapters_off(module: nn.Module) -> Iterator[None]:
    """Inside the block the module computes as its base does.

    peft's switch also flips `requires_grad` of the adapter. Left so, a backward after a reference call would bring zero
    gradients without a word, so the block puts every flag back.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer) and not layer.disable_adapters]
    flags = [(parameter, parameter.requires_grad) for layer in layers for parameter in layer.parameters()]
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter, trainable in flags:
            parameter.requires_grad_(trainable)


def save_lora(denoiser: nn.Module, weights: Mapping[str, Tensor], prefix: str, folder: Path) -> None:
    """Write `pytorch_lora_weights.safetensors` as `pipe.load_lora_weights(folder)` reads it.

    The adapter's configuration goes into the file's metadata: without it diffusers takes alpha for equal to rank.

    Args:
        denoiser: the network with the adapter attached.
        weights: the adapter's parameters by their names in the denoiser.
        prefix: the denoiser's name in the pipeline, 'unet' or 'transformer'.
        folder: where to write.
    """
    from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    tensors = get_peft_model_state_dict(denoiser, state_dict=dict(weights), adapter_name=ADAPTER)
    if prefix == "unet":
        tensors = convert_state_dict_to_diffusers(tensors)
    config = {
        f"{prefix}.{key}": sorted(value) if isinstance(value, set) else value
        for key, value in denoiser.peft_config[ADAPTER].to_dict().items()  # type: ignore[union-attr, index]
    }
    # One entry only: safetensors writes several in random order, and equal policies should be equal files.
    metadata = {LORA_ADAPTER_METADATA_KEY: json.dumps(config, indent=2, sort_keys=True)}
    named = {f"{prefix}.{name}": tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    save_file(named, folder / WEIGHTS_FILE, metadata=metadata)


def load_lora(denoiser: Any, folder: Path, prefix: str) -> None:
    """Attach a saved adapter, not trainable, its strength as it was trained.

    Raises:
        UserError: the file is missing, damaged, or made for another architecture.
    """
    if not (folder / WEIGHTS_FILE).is_file():
        raise UserError(f"{folder} has no {WEIGHTS_FILE}; is it the policy folder of a LoRA run?")
    expected = _file_size(folder / WEIGHTS_FILE, prefix)
    try:
        with torch.random.fork_rng(devices=[]):
            denoiser.load_lora_adapter(
                str(folder), prefix=prefix, weight_name=WEIGHTS_FILE, adapter_name=ADAPTER, use_safetensors=True
            )
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{folder / WEIGHTS_FILE} does not fit this base model: {first}") from error
    attached = sum(parameter.numel() for name, parameter in denoiser.named_parameters() if ".lora_" in name)
    if attached != expected:
        raise UserError(
            f"{folder / WEIGHTS_FILE} does not fit this base model: {attached} of {expected} numbers attach"
        )
    denoiser.requires_grad_(False)


def _file_size(file: Path, prefix: str) -> int:
    """How many numbers the file holds for this network."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            names = [name for name in opened.keys() if name.startswith(f"{prefix}.")]  # noqa: SIM118
            return sum(math.prod(opened.get_slice(name).get_shape()) for name in names)
    except SafetensorError as error:
        raise UserError(f"{file} is damaged ({error}); save the policy again") from error
