"""Which process this is when several share the work, and the device it works on."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Process:
    """One of `count` processes that share work by number: process `rank` takes the items rank, rank + count, ...

    Launchers such as torchrun set RANK and WORLD_SIZE; without them there is one process.
    """

    rank: int
    count: int

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes what is written once."""
        return self.rank == 0

    def share(self, items: int) -> range:
        """The numbers of the items that fall to this process."""
        return range(self.rank, items, self.count)


def this_process() -> Process:
    """From the environment."""
    return Process(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def local_device() -> torch.device:
    """The accelerator of this process (by LOCAL_RANK), or the CPU; ACCELERATE_USE_CPU=1 asks for the CPU."""
    wants_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    accelerator = None if wants_cpu else torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return torch.device("cpu")
    if torch.accelerator.device_count() == 1:
        return accelerator
    return torch.device(accelerator.type, int(os.environ.get("LOCAL_RANK", "0")))
