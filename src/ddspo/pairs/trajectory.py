"""States that sampling visits on its way from noise to x_0, kept beside the pair: they cost disk, no network call.

Of N network calls K states are kept, those that the network was fed at calls

    floor((k + 1/2) N / K),   k = 0 .. K - 1        the middles of K equal parts; noisy first

Kept is the network's input, not the scheduler's own variable: schedulers that calculate in another scaling (Euler:
x_0 + (sigma/alpha) noise) scale their input to the path that the network was trained on. `check_on_path` makes sure.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..diffusion.noise_path import NoisePath
from ..diffusion.sampler import SamplerStep
from ..errors import UserError

WIN, LOSE, TIMESTEPS = "states_win", "states_lose", "state_timesteps"
CHECKSUMS = "states"
"""of a pair's row in the index: one checksum per state"""
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


@dataclass(frozen=True)
class Kept:
    """Which network calls' states are kept, rising, and what the network is fed there, [K], as the scheduler has it."""

    calls: list[int]
    timesteps: Tensor


def kept_states(scheduler: Any, noise_path: NoisePath, steps: int, count: int) -> Kept | None:
    """The `count` states to keep; None for 0.

    Raises:
        UserError: too many states, or a sampler whose states do not lie on the model's noise path.
    """
    if count == 0:
        return None
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(steps)
    calls = kept_calls(len(scheduler.timesteps), count)
    check_on_path(scheduler, noise_path, calls)
    return Kept(calls, scheduler.timesteps.cpu()[calls].clone())


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


@dataclass(frozen=True)
class Trajectory:
    """States of N pairs: win and lose [N, K, C, H, W], and what the network was fed with them, timesteps [K]."""

    win: Tensor
    lose: Tensor
    timesteps: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """As a shard stores them."""
        return {WIN: self.win.contiguous(), LOSE: self.lose.contiguous(), TIMESTEPS: self.timesteps.contiguous()}

    def checksums(self, row: int) -> list[str]:
        """Of the states of one pair, in their order: CRC-32 over both sides, 8 hexadecimal digits."""
        return [_checksum(*sides) for sides in zip(self.win[row], self.lose[row], strict=True)]


@dataclass(frozen=True)
class StoredStates:
    """The states of a shard, memory-mapped."""

    path: Path
    rows: Sequence[dict[str, Any]]
    win: Any  # safetensors slices: indexing reads only those bytes
    lose: Any
    timesteps: Tensor

    @classmethod
    def open(cls, path: Path, handle: Any, rows: Sequence[dict[str, Any]]) -> StoredStates | None:
        """From an opened shard; None when it holds none.

        Raises:
            UserError: rows, shapes and timesteps do not fit each other.
        """
        if WIN not in handle.keys():  # noqa: SIM118
            return None
        states = cls(path, rows, handle.get_slice(WIN), handle.get_slice(LOSE), handle.get_tensor(TIMESTEPS))
        shapes = states.win.get_shape(), states.lose.get_shape()
        expected = [len(rows), len(states.timesteps)]
        if shapes[0] != shapes[1] or shapes[0][:2] != expected:
            raise UserError(
                f"{path} holds states of shapes {shapes[0]} and {shapes[1]}, expected {expected}; make it again"
            )
        return states

    def read(self, row: int, state: int) -> tuple[Tensor, Tensor]:
        """State number `state` of both sides of one pair, [C, H, W] each, in their stored precision.

        Raises:
            UserError: it was altered after it was made.
        """
        win, lose = self.win[row, state], self.lose[row, state]
        if _checksum(win, lose) != self.rows[row][CHECKSUMS][state]:
            raise UserError(
                f"{self.path}, row {row}: state {state} was altered after it was made; delete the file, then run the "
                "same `ddspo pairs` command again"
            )
        return win, lose


def _checksum(win: Tensor, lose: Tensor) -> str:
    crc = zlib.crc32(win.contiguous().view(torch.uint8).numpy().data)
    return f"{zlib.crc32(lose.contiguous().view(torch.uint8).numpy().data, crc):08x}"
