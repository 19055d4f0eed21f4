"""A second adapter beside the trained one, of the same shape and frozen: a reference that can move."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch

from .lora import ADAPTER

TWIN = "moving_reference"


def add_twin(denoiser: Any) -> str:
    """Attach it with the policy adapter's weights of this moment; what is active and what is trained stays.

    Returns:
        its name.
    """
    trainable = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):  # peft draws a start, which is replaced
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several adapters are meant
        denoiser.add_adapter(copy.deepcopy(denoiser.peft_config[ADAPTER]), adapter_name=TWIN)
    denoiser.set_adapter(ADAPTER)
    parameters = dict(denoiser.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            if f".{ADAPTER}." in name:
                twin = parameters[twin_name(name)]
                twin.data = parameter.detach().clone()
    denoiser.requires_grad_(False)
    for parameter in trainable:
        parameter.requires_grad_(True)
    return TWIN


def twin_name(name: str) -> str:
    """The twin's parameter for one of the policy adapter's."""
    return name.replace(f".{ADAPTER}.", f".{TWIN}.")
