"""Checks that stop a run before it wastes a night."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from .checkpoint import numbered

_MEND = "lower training.optimizer.learning_rate, raise objective.beta, or train with mixed_precision 'bf16' or 'no'"


def check_gradients(parameters: dict[str, nn.Parameter]) -> None:
    """After the first backward: every trained parameter has a gradient, and not all are zero.

    A reference call at the wrong place can switch gradients off without a word; better to stop than to train nothing.
    Whether they are finite is left to the norm that every step computes; in fp16 the first steps may overflow.

    Raises:
        UserError: a trained parameter has no gradient, or no loss depends on any.
    """
    gradients = [parameter.grad for parameter in parameters.values() if parameter.grad is not None]
    missing = [name for name, parameter in parameters.items() if parameter.grad is None]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(parameters)} trained parameters get no gradient ({missing[0]}, ...); "
            "choose training.lora.targets that the network uses"
        )
    largest = torch.stack(torch._foreach_norm(gradients, math.inf)).max()
    if largest.item() == 0:
        raise UserError(
            "the first step's gradient is zero everywhere: policy and target agree already; "
            "check that degraded prompts differ from their prompts"
        )


def stop_unless_finite(step: int, loss: float, gradient_norm: float, scaler: Any, checkpoints: Path) -> None:
    """Stop before the optimizer takes in numbers that are not finite; the parameters are still good then.

    In fp16 an overflow of the gradient alone is no error: the scaler leaves the step out and halves its scale. It
    becomes one when the scale falls below 1.

    Raises:
        UserError: says where, which state is kept, and what to try.
    """
    if math.isfinite(loss) and (math.isfinite(gradient_norm) or (scaler is not None and scaler.get_scale() >= 1)):
        return
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient norm is {gradient_norm}"
    kept = numbered(checkpoints)
    state = f"the last good state is {kept[0]}" if kept else "no checkpoint was due yet"
    raise UserError(f"step {step}: {what}; {state}. To get past it start another run: {_MEND}")
