"""The frozen copy beside a fully trained network: its precision, and how it is made."""

from __future__ import annotations

import copy
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
    frozen = copy.deepcopy(network).requires_grad_(False).eval()
    for part in frozen.modules():
        if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            part.to(DTYPES[frozen_dtype])
    return frozen


def in_float32(network: nn.Module) -> bool:
    """Whether every parameter is float32."""
    return all(parameter.dtype == torch.float32 for parameter in network.parameters())
