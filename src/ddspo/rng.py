"""Stateless randomness: every draw follows from (run seed, what it is for, which item), never from what ran before.

So a resumed run equals the unbroken one, any pair can be made again alone, and sharing work between processes
changes nothing.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def seed_for(run_seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one draw, equal in every process, Python version and machine.

    Args:
        run_seed: the seed in the recipe.
        purpose: names and counters that identify the draw, such as ("train", "noise", step, pair_id).
    """
    text = "\x1f".join([str(run_seed), *(f"{type(part).__name__}:{part}" for part in purpose)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def torch_generator(run_seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one draw; noise is drawn on the CPU so that it does not depend on the device."""
    return torch.Generator().manual_seed(seed_for(run_seed, *purpose))


def numpy_generator(run_seed: int, *purpose: str | int) -> np.random.Generator:
    """A NumPy generator for one draw."""
    return np.random.default_rng(seed_for(run_seed, *purpose))


def normal_like_shape(shape: tuple[int, ...], run_seed: int, *purpose: str | int) -> torch.Tensor:
    """Standard normal noise for one item, float32, on the CPU."""
    return torch.randn(shape, generator=torch_generator(run_seed, *purpose))
