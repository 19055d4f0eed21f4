"""States that sampling visits on its way from noise to x_0, kept beside the pair: they cost disk, no network call.

Of N network calls K states are kept, those that the network was fed at calls

    floor((k + 1/2) N / K),   k = 0 .. K - 1        the middles of K equal parts; noisy first

Kept is the network's input, not the scheduler's own variable: schedulers that calculate in another scaling (Euler:
x_0 + (sigma/alpha) noise) scale their input to the path that the network was trained on. `check_on_path` makes sure.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ..diffusion.noise_path import NoisePath
from ..diffusion.sampler import SamplerStep
from ..errors import UserError

OFF_PATH = 0.02
"""how far a sampler's alpha and sigma may be from the path's at the same timestep; some samplers round timesteps"""


def kept_calls(calls: int, count: int) -> list[int]:
    """Which of a sampler's network calls (0, 1, ...) are kept, rising.

    Raises:
        UserError: more states are asked for than there are calls.
    """
    if count > calls:
        raise UserError(
            f"pairs.trajectory_states is {count}, but the sampler visits {calls} states; lower it, or raise "
            "pairs.sampling.steps"
        )
    return [(2 * number + 1) * calls // (2 * count) for number in range(count)]


def kept_timesteps(scheduler: Any, noise_path: NoisePath, steps: int, count: int) -> Tensor:
    """What the network is fed with the kept states, [count], falling, in the scheduler's number type.

    Raises:
        UserError: too many states, or a sampler whose states do not lie on the model's noise path.
    """
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(steps)
    calls = kept_calls(len(scheduler.timesteps), count)
    check_on_path(scheduler, noise_path, calls)
    return scheduler.timesteps.cpu()[calls].clone()


def check_on_path(scheduler: Any, noise_path: NoisePath, calls: list[int]) -> None:
    """Refuse states that training would take for others: alpha and sigma must be the path's at that timestep.

    Both are read off the scheduler itself: what becomes of x_0 = 1 and no noise, and of noise = 1 and x_0 = 0, when it
    noises them and scales them for the network.

    Args:
        scheduler: with its timesteps set; its state is left alone.
        noise_path: the path that training assumes.
        calls: which network calls to look at.

    Raises:
        UserError: names the sampler and the place.
    """
    one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    for call in calls:
        timestep = scheduler.timesteps[call].reshape(1).cpu()
        alpha, sigma = (_network_input(scheduler, *sides, timestep) for sides in ((one, zero), (zero, one)))
        expected = [float(number) for number in noise_path.coefficients(timestep)]
        if max(abs(alpha - expected[0]), abs(sigma - expected[1])) > OFF_PATH:
            raise UserError(
                f"pairs.trajectory_states: sampler {type(scheduler).__name__} holds alpha {alpha:.3g}, sigma "
                f"{sigma:.3g} at timestep {float(timestep):.4g}, the model's noise path {expected[0]:.3g}, "
                f"{expected[1]:.3g}; choose another pairs.sampling.sampler, or trajectory_states 0"
            )


def _network_input(scheduler: Any, x_0: Tensor, noise: Tensor, timestep: Tensor) -> float:
    scheduler = copy.deepcopy(scheduler)
    add_noise = scheduler.scale_noise if hasattr(scheduler, "scale_noise") else scheduler.add_noise
    x_t = add_noise(x_0, timestep, noise) if hasattr(scheduler, "scale_noise") else add_noise(x_0, noise, timestep)
    if hasattr(scheduler, "scale_model_input"):
        x_t = scheduler.scale_model_input(x_t, timestep[0])
    return float(x_t)


class StateKeeper:
    """Collects the states of one sampled batch: pass `see` as `sample`'s `on_step`."""

    def __init__(self, calls: list[int]) -> None:
        self._calls = frozenset(calls)
        self._states: list[Tensor] = []

    def see(self, step: SamplerStep) -> None:
        """Keep the state if it is one of those wanted."""
        if step.index in self._calls:
            self._states.append(step.x_t.cpu())

    def stacked(self) -> Tensor:
        """[B, K, C, H, W] on the CPU, in the order in which they were visited."""
        return torch.stack(self._states, dim=1)
