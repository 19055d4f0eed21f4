"""Weights that wait in main memory and visit the device for a call."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


def send_home(module: nn.Module) -> None:
    """Move all weights to main memory, page-locked where there is a CUDA device, so that visits are quick."""
    module.to("cpu")
    if torch.cuda.is_available():
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.data = tensor.data.pin_memory()


@contextlib.contextmanager
def visiting(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside the block the weights are on `device`; afterwards they are what they were, and nothing is copied back.

    So it suits weights that do not change: a frozen copy costs its size once per visit, in one direction.
    """
    tensors = [*module.parameters(), *module.buffers()]
    home = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.to(device, non_blocking=True)
        yield
    finally:
        for tensor, data in zip(tensors, home, strict=True):
            tensor.data = data
