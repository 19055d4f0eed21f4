"""Trained parameters in bfloat16 (`training.trained_dtype`): the update in float32, then stochastic rounding.

bfloat16 keeps 8 significant bits. The numbers next to a weight of 0.01 are 6e-5 away, so a step of 5e-6 rounded to the
nearest would leave it where it is, every time. Rounded stochastically (Gupta et al. 2015, arXiv 1502.02551)

    up with probability (x - below) / (above - below), down otherwise

it moves by the step on average. Draws follow from (run seed, step, name of the parameter): a resumed run and every
process round alike. Float32 copies exist for one parameter at a time; the optimizer's state stays as it is in float32.

What it costs: gradients are bfloat16 as well and are summed over micro batches in it, which adds noise of some percent
of a gradient over thousands of micro batches.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..rng import seed_for

_LOW_BITS = 16
"""of float32, which bfloat16 does not have"""


def stand_ins(parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """What the optimizer steps: float32 parameters themselves, for others one of their shape that holds nothing."""
    return {
        name: parameter
        if parameter.dtype == torch.float32
        else nn.Parameter(torch.zeros((), device=parameter.device).expand(parameter.shape))
        for name, parameter in parameters.items()
    }


def rounded_step(
    optimizer: torch.optim.Optimizer,
    parameters: dict[str, nn.Parameter],
    optimized: dict[str, nn.Parameter],
    run_seed: int,
    step: int,
) -> None:
    """One optimizer step, number `step`, in float32; parameters that are not float32 are rounded stochastically.

    Args:
        optimizer: over `optimized`, in one group.
        parameters: with their gradients; none is changed otherwise.
        optimized: their stand-ins.
        run_seed: of the recipe.
        step: 0, 1, ...
    """
    (group,) = optimizer.param_groups
    try:
        for name, parameter in parameters.items():
            group["params"] = [optimized[name]]
            if optimized[name] is parameter:
                optimizer.step()
            elif parameter.grad is not None:
                _step_one(optimizer, parameter, optimized[name], seed_for(run_seed, "train", "rounding", step, name))
    finally:
        group["params"] = list(optimized.values())


@torch.no_grad()
def _step_one(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, stand_in: nn.Parameter, seed: int) -> None:
    empty, stand_in.data = stand_in.data, parameter.detach().float()
    assert parameter.grad is not None
    stand_in.grad = parameter.grad.float()
    optimizer.step()
    parameter.copy_(round_stochastically(stand_in.data, torch.Generator(parameter.device).manual_seed(seed)))
    stand_in.grad, stand_in.data = None, empty


def round_stochastically(values: Tensor, generator: torch.Generator) -> Tensor:
    """Float32 -> bfloat16 of the same shape, one of the two neighbors of each value, its mean the value itself.

    Exact for float32: with random bits added to the low 16, a carry comes as often as these are large; cutting them off
    leaves a bfloat16. What bfloat16 has stays.
    """
    noise = torch.randint(1 << _LOW_BITS, values.shape, generator=generator, dtype=torch.int32, device=values.device)
    bits = values.view(torch.int32) + noise
    return (bits >> _LOW_BITS << _LOW_BITS).view(torch.float32).to(torch.bfloat16)
