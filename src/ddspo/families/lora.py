"""LoRA on a denoiser: attach with a stateless start or from a file, switch between adapters, write for diffusers."""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from .. import recipe
from ..errors import UserError, first_line
from ..rng import torch_generator
from .lora_files import WEIGHTS_FILE, LoraWeights, lora_file, read_lora
from .single_file import write_single_file

if TYPE_CHECKING:
    from .pipeline import PipelineFamily

ADAPTER = "policy"


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
def active_adapter(module: nn.Module, name: str | None) -> Iterator[None]:
    """Inside the block the module computes with this adapter alone; None: as its base does.

    peft's switches also flip `requires_grad` of adapters: of the one that is left and of the one that is taken. Left
    so, a backward after such a call would bring zero gradients without a word, so the block puts every flag back.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
    before = [(layer, list(layer.active_adapters), not layer.disable_adapters) for layer in layers]
    flags = [(parameter, parameter.requires_grad) for layer in layers for parameter in layer.parameters()]
    try:
        for layer in layers:
            if name is not None:
                layer.set_adapter([name])
            layer.enable_adapters(name is not None)
        yield
    finally:
        for layer, names, enabled in before:
            layer.set_adapter(names)
            layer.enable_adapters(enabled)
        for parameter, trainable in flags:
            parameter.requires_grad_(trainable)


def save_lora(family: PipelineFamily, denoiser: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write `pytorch_lora_weights.safetensors` as `pipe.load_lora_weights(folder)` reads it, and the single file.

    The adapter's configuration goes into the file's metadata: without it diffusers takes alpha for equal to rank.

    Args:
        family: what the LoRA is for.
        denoiser: the network with the adapter attached.
        weights: the adapter's parameters by their names in the denoiser.
        folder: where to write.
    """
    from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    prefix, config = family.denoiser_part, cast(Any, denoiser).peft_config[ADAPTER]
    tensors = get_peft_model_state_dict(denoiser, state_dict=dict(weights), adapter_name=ADAPTER)
    write_single_file(family, tensors, config.lora_alpha, folder)
    if prefix == "unet":
        tensors = convert_state_dict_to_diffusers(tensors)
    named_config = {
        f"{prefix}.{key}": sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()
    }
    # One entry only: safetensors writes several in random order, and equal policies should be equal files.
    metadata = {LORA_ADAPTER_METADATA_KEY: json.dumps(named_config, indent=2, sort_keys=True)}
    named = {f"{prefix}.{name}": tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    save_file(named, folder / WEIGHTS_FILE, metadata=metadata)


def load_lora(family: PipelineFamily, source: Path, *, name: str = ADAPTER, denoiser: Any = None) -> None:
    """Attach a saved adapter beside those that are there: active, not trainable, in float32, as strong as trained.

    Args:
        family: its denoiser gets the adapter.
        source: a LoRA's file or folder, ours or not.
        name: what the adapter is called in the network.
        denoiser: a copy of the family's denoiser that gets it instead.

    Raises:
        UserError: the file is missing, damaged, or made for another architecture.
    """
    weights = read_lora(family, source)
    network: Any = family.denoiser if denoiser is None else denoiser
    file = lora_file(source)
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several adapters are meant
            network.load_lora_adapter(
                weights.tensors,
                prefix=family.denoiser_part,
                adapter_name=name,
                network_alphas=weights.alphas,
                metadata=weights.metadata,
                low_cpu_mem_usage=True,  # draws no start that would be thrown away
            )
    except Exception as error:
        raise UserError(f"{file} does not fit this base model ({family.name}): {first_line(error)}") from error
    _restore_precision(network, weights, family, name, file)
    network.requires_grad_(False)
    for parameter in trainable:
        parameter.requires_grad_(True)


def merge_lora(family: PipelineFamily, source: Path, denoiser: Any) -> None:
    """Add a LoRA to the weights of `denoiser` for good: W <- W + (alpha / rank) B A, summed in float32.

    Raises:
        UserError: as `load_lora`.
    """
    load_lora(family, source, name="merged", denoiser=denoiser)
    with torch.no_grad():
        for name, delta in AdapterDeltas(denoiser, "merged").items():
            weight = denoiser.get_parameter(name)
            weight.copy_(weight.float() + delta)
    denoiser.unload_lora()


class AdapterDeltas(Mapping[str, Tensor]):
    """What an adapter adds to each weight, in float32, by the weight's present name (it ends in base_layer.weight).

    Each is worked out when it is asked for: all of them are as large as the layers that they belong to, 10 GB in FLUX.
    """

    def __init__(self, denoiser: nn.Module, name: str = ADAPTER) -> None:
        from peft.tuners.lora import LoraLayer

        self._name = name
        self._layers: dict[str, LoraLayer] = {
            f"{module_name}.base_layer.weight": module
            for module_name, module in denoiser.named_modules()
            if isinstance(module, LoraLayer) and name in module.lora_A
        }

    def __getitem__(self, weight: str) -> Tensor:
        delta: Tensor = self._layers[weight].get_delta_weight(self._name)
        return delta.float()

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)


def _restore_precision(network: nn.Module, weights: LoraWeights, family: PipelineFamily, name: str, file: Path) -> None:
    """Put the file's numbers in place again, in float32: peft stores them in the base's precision.

    Raises:
        UserError: a tensor of the file belongs to no layer.
    """
    from diffusers.utils import convert_unet_state_dict_to_peft

    tensors = {key.removeprefix(f"{family.denoiser_part}."): tensor for key, tensor in weights.tensors.items()}
    if not any("lora_A" in key for key in tensors):
        tensors = convert_unet_state_dict_to_peft(tensors)
    parameters = dict(network.named_parameters())
    attached = 0
    for key, tensor in tensors.items():
        parameter = parameters.get(f"{key.removesuffix('.weight')}.{name}.weight")
        if parameter is not None and parameter.shape == tensor.shape:
            parameter.data = tensor.to(family.device, torch.float32)
            attached += 1
    if attached != len(tensors) or not attached:
        raise UserError(
            f"{file} does not fit this base model ({family.name}): {attached} of {len(tensors)} matrices attach"
        )
