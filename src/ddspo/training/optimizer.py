"""The optimizer, its learning rate as a function of the step, and the moving average of the trained parameters.

Nothing here keeps hidden state: the learning rate follows from the step number, and what optimizer and average hold is
handed out by parameter name, so that a checkpoint is plain tensors.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..recipe import Optimizer as Settings


def learning_rate(settings: Settings, step: int, max_steps: int) -> float:
    """The rate of optimizer step number `step` (0, 1, ...). No step has rate 0.

    warm-up:   peak (step + 1) / warmup_steps               while step < warmup_steps
    constant:  peak
    linear:    peak (1 - done)                              done = (step - warmup_steps) / (max_steps - warmup_steps)
    cosine:    peak (1 + cos(pi done)) / 2
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(max_steps - settings.warmup_steps, 1)
    shares = {"constant": 1.0, "linear": 1.0 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return settings.learning_rate * shares[settings.schedule]


def make_optimizer(settings: Settings, parameters: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    """The recipe's optimizer over the trained parameters.

    Raises:
        UserError: 8-bit AdamW without bitsandbytes, or on a device that it does not know.
    """
    return _OPTIMIZERS[settings.name](settings, list(parameters.values()))


def _adamw(settings: Settings, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    fused = parameters[0].device.type in ("cpu", "cuda", "xpu")  # one kernel where the device has it
    return torch.optim.AdamW(parameters, **_adam_settings(settings), fused=fused)


def _adamw_8bit(settings: Settings, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW with both moments in 8 bits, by blocks of 256 (Dettmers et al. 2021, arXiv 2110.02861).

    Tensors of fewer than 4096 numbers keep theirs in float32.
    """
    device = parameters[0].device.type
    if device not in ("cuda", "cpu", "xpu"):
        raise UserError(f"training.optimizer.name adamw_8bit does not run on {device}; use adamw or adafactor")
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise UserError(
            "training.optimizer.name adamw_8bit needs bitsandbytes (pip install 'ddspo[8bit]'); or use adafactor"
        ) from error
    return AdamW8bit(parameters, **_adam_settings(settings))


def _adafactor(settings: Settings, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Second moments by row and column only (Shazeer & Stern 2018, arXiv 1804.04235), as Diffusion-DPO has it.

    Neither steps relative to the step number nor updates scaled by the parameters' size: the learning rate is the
    recipe's, and a LoRA's B, which starts at zero, moves. torch's own Adafactor always scales by size.
    """
    from transformers.optimization import Adafactor

    return Adafactor(
        parameters,
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        scale_parameter=False,
        relative_step=False,
    )


_OPTIMIZERS: dict[str, Callable[[Settings, list[nn.Parameter]], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "adamw_8bit": _adamw_8bit,
    "adafactor": _adafactor,
}


def _adam_settings(settings: Settings) -> dict[str, Any]:
    return {
        "lr": settings.learning_rate,
        "betas": settings.adam_betas,
        "eps": settings.adam_epsilon,
        "weight_decay": settings.weight_decay,
    }


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Use this rate from now on."""
    for group in optimizer.param_groups:
        group["lr"] = value


def optimizer_state(optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """What the optimizer holds as 'exp_avg.NAME' and so on, in main memory; empty before the first step.

    A step count that is a plain number becomes an int64 tensor, which tells it from one that is a tensor (float32).
    """
    return {
        # The tables of 8-bit moments are one tensor for all parameters, and a file takes none twice.
        f"{key}.{name}": held.to("cpu", copy="qmap" in key) if isinstance(held, Tensor) else torch.tensor(held)
        for name, parameter in parameters.items()
        for key, held in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], state: dict[str, Tensor]
) -> None:
    """Undo `optimizer_state`: the next step equals the one that would have followed."""
    for full_name, stored in state.items():
        key, name = full_name.split(".", 1)
        parameter, held = parameters[name], _held(stored, parameters[name])
        optimizer.state[parameter][key] = held


def _held(stored: Tensor, parameter: nn.Parameter) -> Tensor | int:
    if stored.dtype == torch.int64 and stored.ndim == 0:
        return int(stored.item())
    if stored.shape != parameter.shape:
        return stored.to(parameter.device)
    # moments lie in memory as their parameter does
    return torch.zeros_like(parameter, dtype=stored.dtype, memory_format=torch.preserve_format).copy_(stored)


class MovingAverage:
    """Exponential moving average of the trained parameters, in float32.

        average <- d average + (1 - d) parameter,   d = min(decay, (1 + step) / (10 + step))

    d starts small, so that the average forgets the starting point of a short run (as in diffusers' `EMAModel`).
    """

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.parameters = parameters
        self.decay = decay
        self.average = {name: parameter.detach().float().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after optimizer step number `step` (0, 1, ...)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = [parameter.detach().float() for parameter in self.parameters.values()]
        torch._foreach_lerp_(list(self.average.values()), current, 1 - decay)

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from a stored average."""
        for name, held in self.average.items():
            held.copy_(state[name])

    @contextlib.contextmanager
    @torch.no_grad()
    def in_place(self) -> Iterator[None]:
        """Inside the block the parameters hold the average; afterwards they are what they were."""
        kept = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        try:
            for name, parameter in self.parameters.items():
                parameter.copy_(self.average[name])
            yield
        finally:
            for name, parameter in self.parameters.items():
                parameter.copy_(kept[name])
