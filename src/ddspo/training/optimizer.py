"""AdamW, its learning rate as a function of the step, and the moving average of the trained parameters.

Nothing here keeps hidden state: the learning rate follows from the step number, and what AdamW and the average hold is
handed out by parameter name, so that a checkpoint is plain tensors.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..recipe import Optimizer as Settings

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


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


def make_optimizer(settings: Settings, parameters: dict[str, nn.Parameter]) -> torch.optim.AdamW:
    """AdamW over the trained parameters; one fused kernel where the device has it."""
    first = next(iter(parameters.values()))
    return torch.optim.AdamW(
        parameters.values(),
        lr=settings.learning_rate,
        betas=settings.adam_betas,
        eps=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
        fused=first.device.type in ("cpu", "cuda", "xpu"),
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Use this rate from now on."""
    for group in optimizer.param_groups:
        group["lr"] = value


def optimizer_state(optimizer: torch.optim.AdamW, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """AdamW's moments and step counts as 'exp_avg.NAME' and so on; empty before the first step."""
    return {
        f"{moment}.{name}": optimizer.state[parameter][moment]
        for name, parameter in parameters.items()
        if parameter in optimizer.state
        for moment in MOMENTS
    }


def load_optimizer_state(
    optimizer: torch.optim.AdamW, parameters: dict[str, nn.Parameter], state: dict[str, Tensor]
) -> None:
    """Undo `optimizer_state`: the next step equals the one that would have followed."""
    for name, parameter in parameters.items():
        moments: dict[str, Tensor] = {"step": state[f"step.{name}"].to(parameter.device, torch.float32)}
        for moment in MOMENTS[1:]:
            held = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            moments[moment] = held.copy_(state[f"{moment}.{name}"])
        optimizer.state[parameter] = moments


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
