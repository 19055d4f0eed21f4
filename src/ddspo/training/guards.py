"""Checks that stop a run before it wastes a night."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import UserError, first_line
from .checkpoint import numbered

LEAST_CONTRAST = 1e-10
"""mean d² that float32 rounding alone makes is about 1e-13"""
_COMPILER_ERROR = "torch._dynamo.exc.TorchDynamoException"
_MEND = "lower training.optimizer.learning_rate, raise objective.beta, or train with mixed_precision 'bf16' or 'no'"


def check_gradients(parameters: dict[str, nn.Parameter]) -> None:
    """After the first backward: every trained parameter has a gradient.

    A reference call at the wrong place can switch gradients off without a word; better to stop than to train nothing.

    Raises:
        UserError: a trained parameter has none.
    """
    missing = [name for name, parameter in parameters.items() if parameter.grad is None]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(parameters)} trained parameters get no gradient ({missing[0]}, ...); "
            "choose training.lora.targets that the network uses"
        )


def check_signal(row: dict[str, Any], gradient_norm: float) -> None:
    """After the first step's measurements: there is something to learn from.

    Raises:
        UserError: the gradient is zero, or the reference cannot tell prompts from degraded prompts.
    """
    if gradient_norm == 0 or row.get("contrast", 1.0) < LEAST_CONTRAST:
        raise UserError(
            f"nothing to learn: gradient norm {gradient_norm:.2g}, contrast {row.get('contrast', 0.0):.2g}; "
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


def refuse_uncompiled(error: RuntimeError) -> None:
    """Say in one line that torch.compile gave up, which its errors show by the family they are of.

    Raises:
        UserError: it did; nothing happens with any other error.
    """
    if not any(f"{kind.__module__}.{kind.__name__}" == _COMPILER_ERROR for kind in type(error).__mro__):
        return  # that family is imported when torch compiles, and not for the question alone
    reason = first_line(getattr(error, "inner_exception", error))
    raise UserError(
        f"training.compile: torch could not compile the network ({reason}); set it to false, or, if an earlier run was "
        "killed while it compiled, delete torch's cache and run again (TORCHINDUCTOR_CACHE_DIR, by default "
        "torchinductor_USER in the temporary folder)"
    ) from error
