"""Which pairs, which timestep and which noise at every optimizer step: all follow from (run seed, step, position).

Step s takes samples s·G .. s·G + G - 1 of an endless sequence, G the global batch: one seeded permutation of all pairs
after another. Nothing is remembered between steps, so resuming needs no state, and the same G samples are shared out
over any number of processes and micro batches. Where pairs differ in latent shape, every micro batch has one shape.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..diffusion.noise_path import NoisePath
from ..diffusion.timesteps import draw_timesteps, timestep_weight
from ..errors import UserError
from ..method_facts import needs_degraded_prompts
from ..recipe import Recipe
from ..rng import numpy_generator, torch_generator
from ..tensors import Conditioning, PreferenceBatch, WinLose
from .told import told

if TYPE_CHECKING:
    from ..families.prompt_table import PromptTable
    from ..pairs.store import PairStore


@dataclasses.dataclass(frozen=True)
class MicroBatch:
    """What one network call trains on.

    Attributes:
        pairs: B pairs with their noise and timestep.
        weight: what each pair's loss is multiplied by, [B].
        is_last: whether the optimizer steps after this one.
        step: of the optimizer, 0, 1, ...
        positions: of its pairs in the global batch.
    """

    pairs: PreferenceBatch
    weight: Tensor
    is_last: bool
    step: int = 0
    positions: Sequence[int] = ()


class Batches:
    """The micro batches of one process.

    Args:
        recipe: seed, batch sizes and timestep settings are read.
        store: the pairs.
        prompts: embeddings of their prompts and degraded prompts, looked up on the CPU.
        noise_path: the timesteps to draw from.
        device: where batches go.
        rank, processes: this process takes part `rank` of the global batch, cut into `processes` even parts.
    """

    def __init__(
        self,
        recipe: Recipe,
        store: PairStore,
        prompts: PromptTable,
        noise_path: NoisePath,
        *,
        device: torch.device,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.recipe, self.store, self.prompts, self.noise_path, self.device = recipe, store, prompts, noise_path, device
        self.degraded = needs_degraded_prompts(recipe) or measures_contrast(recipe, store)
        self.processes, self.share = processes, _share(recipe.training.global_batch_pairs, rank, processes)
        self.micro_batch_pairs = recipe.training.micro_batch_pairs
        """at most so many pairs per network call; made smaller when memory gives out"""

    def micro_batches(self, step: int) -> Iterator[MicroBatch]:
        """This process's part of optimizer step number `step` (0, 1, ...)."""
        batches = self.cut(step)
        for positions in batches:
            yield self.micro_batch(step, positions, is_last=positions is batches[-1])

    def cut(self, step: int) -> list[Sequence[int]]:
        """Positions in the global batch of each of this process's micro batches."""
        return self._cut(step, self.share, self.micro_batch_pairs)

    def cut_of_all(self, step: int) -> list[Sequence[int]]:
        """The same of all processes, as the recipe cuts them."""
        training = self.recipe.training
        cuts: list[Sequence[int]] = []
        for rank in range(self.processes):
            share = _share(training.global_batch_pairs, rank, self.processes)
            cuts += self._cut(step, share, training.micro_batch_pairs)
        return cuts

    def first(self, samples: int) -> Iterator[MicroBatch]:
        """The run's first `samples` samples, all of them on this process: to measure before the first step."""
        count, micro = self.recipe.training.global_batch_pairs, self.micro_batch_pairs
        for step in range(-(-samples // count)):
            for positions in _cut(range(min(count, samples - step * count)), micro if self.store.one_shape else 1):
                yield self.micro_batch(step, positions, is_last=False)

    def _cut(self, step: int, share: range, size: int) -> list[Sequence[int]]:
        if self.store.one_shape:
            return _cut(share, size)
        shapes: dict[tuple[int, int, int], list[int]] = {}
        for position, number in zip(share, self._numbers(step, share), strict=True):
            shapes.setdefault(self.store.shape_of(number), []).append(position)
        return [positions for shape in sorted(shapes) for positions in _cut(shapes[shape], size)]

    def _numbers(self, step: int, positions: Sequence[int]) -> list[int]:
        first = step * self.recipe.training.global_batch_pairs
        return [pair_number(self.recipe.seed, len(self.store), first + position) for position in positions]

    def micro_batch(self, step: int, positions: Sequence[int], *, is_last: bool = False) -> MicroBatch:
        """The pairs at these places of one global batch, which must be of one latent shape."""
        seed, numbers = self.recipe.seed, self._numbers(step, positions)
        shape, rows = self.store.shape_of(numbers[0]), [self.store.rows[number] for number in numbers]
        losing = self.recipe.objective.side == "lose"
        draws = [draw(seed, step, position, shape, second=losing) for position in positions]
        uniforms = torch.stack([uniform for uniform, _ in draws])
        timestep, x_t = self._states(numbers, uniforms)
        weight = timestep_weight(self.recipe.training.timesteps, self.noise_path, timestep)
        x_0 = self.store.read(numbers)
        if losing:  # what learns from one side alone looks at the first
            x_0, x_t = x_0.swapped(), x_t.swapped() if x_t else None
        prompt, degraded = told(self.recipe, self.prompts, rows, step, positions, degraded=self.degraded)
        pairs = PreferenceBatch(
            x_0=_sides_to_device(x_0, self.device),
            noise=None if x_t else to_device(torch.stack([noise for _, noise in draws]), self.device),
            timestep=to_device(timestep, self.device),
            prompt=_conditioning_to_device(prompt, self.device),
            degraded_prompt=_conditioning_to_device(degraded, self.device),
            x_t=_sides_to_device(x_t, self.device) if x_t else None,
        )
        return MicroBatch(pairs, to_device(weight, self.device), is_last, step, positions)

    def _states(self, numbers: list[int], uniforms: Tensor) -> tuple[Tensor, WinLose | None]:
        """(timestep [B], stored states or None): a uniform u picks a place on the path, or state floor(u K) of K."""
        settings, stored = self.recipe.training.timesteps, self.store.state_timesteps
        if settings.states == "forward":
            return draw_timesteps(settings, self.noise_path, uniforms), None
        if stored is None:
            raise UserError(f"{self.store.folder} holds no trajectory states; make pairs with pairs.trajectory_states")
        states = (uniforms * len(stored)).long()
        return stored[states], self.store.read_states(numbers, states.tolist())


def _share(count: int, rank: int, processes: int) -> range:
    return range(rank * count // processes, (rank + 1) * count // processes)


def _cut(positions: Sequence[int], size: int) -> list[Sequence[int]]:
    return [positions[start : start + size] for start in range(0, len(positions), size)]


def measures_contrast(recipe: Recipe, store: PairStore) -> bool:
    """Whether automatic beta needs degraded prompts that the objective itself does not: forward noise, where it can.

    Forward noise is what a noised losing picture holds; its mean given x_t is the prediction of the best denoiser of
    losing pictures. Those were drawn with the degraded prompt, so on average the loss pushes the losing side along
    reference(x_lose, c) - that denoiser, which is about d of the training-free target.
    """
    if recipe.objective.beta != "auto" or recipe.target.source != "forward_noise" or store.is_imported:
        return False
    return all(row.get("degraded_prompt") not in (None, "", row["prompt"]) for row in store.rows)


def pair_number(run_seed: int, pairs: int, sample: int) -> int:
    """Which of `pairs` pairs is number `sample` of the endless sequence; every epoch has its own seeded order."""
    epoch, place = divmod(sample, pairs)
    return int(_epoch_order(run_seed, pairs, epoch)[place])


def pairs_used(recipe: Recipe, pairs: int) -> list[int]:
    """The numbers of the pairs that a run of `max_steps` ever looks at, rising; all of them from one epoch on."""
    samples = recipe.training.max_steps * recipe.training.global_batch_pairs
    if samples >= pairs:
        return list(range(pairs))
    return sorted(pair_number(recipe.seed, pairs, sample) for sample in range(samples))


@lru_cache(maxsize=4)
def _epoch_order(run_seed: int, pairs: int, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return numpy_generator(run_seed, "train", "order", epoch).permutation(pairs)


def draw(
    run_seed: int, step: int, position: int, shape: tuple[int, ...], *, second: bool = False
) -> tuple[Tensor, Tensor]:
    """(uniform in [0, 1) that decides the timestep, normal noise of `shape`) for one place in one global batch.

    `second`: the same uniform with another noise, independent of the first.
    """
    generator = torch_generator(run_seed, "train", step, position)
    uniform, noise = torch.rand((), generator=generator, dtype=torch.float64), torch.randn(shape, generator=generator)
    return uniform, torch.randn(shape, generator=generator) if second else noise


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Moved without making the host wait for the accelerator."""
    if device.type != "cuda" or tensor.device.type == "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def noise_path_on(noise_path: NoisePath, device: torch.device) -> NoisePath:
    """The same path with its tables on `device`, so that looking up coefficients there moves nothing."""
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return dataclasses.replace(
        noise_path,
        alphas=noise_path.alphas.to(device, dtype),
        sigmas=noise_path.sigmas.to(device, dtype),
        timesteps=noise_path.timesteps.to(device),
    )


def _sides_to_device(sides: WinLose, device: torch.device) -> WinLose:
    return WinLose(to_device(sides.win, device), to_device(sides.lose, device))


def _conditioning_to_device(conditioning: Conditioning, device: torch.device) -> Conditioning:
    return Conditioning({name: to_device(tensor, device) for name, tensor in conditioning.tensors.items()})
