"""Full fine-tuning: the precision of the trained network and of the frozen copy beside it, and how it is made."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

from ..errors import UserError
from .pipeline import DTYPES

Precision = Literal["no", "bf16", "fp16"]


def shared_precision(frozen_dtype: str, mixed_precision: Precision | None) -> Precision:
    """The autocast that policy and copy share; None: the one that fits the copy.

    Raises:
        UserError: a low-precision copy beside a policy that computes otherwise: they would differ from step 0 on.
    """
    precision: Precision = mixed_precision or ("no" if frozen_dtype == "fp32" else frozen_dtype)  # type: ignore[assignment]
    if frozen_dtype not in DTYPES:
        raise UserError(f"model.frozen_dtype: unknown precision '{frozen_dtype}'; use one of {', '.join(DTYPES)}")
    if frozen_dtype != "fp32" and precision != frozen_dtype:
        raise UserError(
            f"full fine-tuning with model.frozen_dtype {frozen_dtype} needs mixed_precision {frozen_dtype} too, "
            "or policy and reference differ before training; set both, or frozen_dtype fp32"
        )
    return precision


def frozen_copy(network: nn.Module, frozen_dtype: str) -> nn.Module:
    """A copy that is not trained; what autocast would round anyway, matrices and convolutions, in `frozen_dtype`."""
    return cast_matrices(copy.deepcopy(network).requires_grad_(False).eval(), frozen_dtype)


def cast_matrices(network: nn.Module, dtype: str) -> nn.Module:
    """The same network with matrices and convolutions in `dtype`; norms and tables stay as they are."""
    for part in _matrices(network):
        part.to(DTYPES[dtype])
    return network


@contextlib.contextmanager
def held_in_float32(network: nn.Module) -> Iterator[None]:
    """Inside the block all parameters are float32, which other libraries expect of saved weights."""
    dtypes = [(part, next(part.parameters()).dtype) for part in _matrices(network)]
    low = [(part, dtype) for part, dtype in dtypes if dtype != torch.float32]
    try:
        for part, _ in low:
            part.float()
        yield
    finally:
        for part, dtype in low:
            part.to(dtype)


def _matrices(network: nn.Module) -> list[nn.Module]:
    return [part for part in network.modules() if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)]


def in_float32(network: nn.Module) -> bool:
    """Whether every parameter is float32."""
    return all(parameter.dtype == torch.float32 for parameter in network.parameters())
