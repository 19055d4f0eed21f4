"""Predictions of frozen networks on disk, found by (optimizer step, position in the global batch).

    settings.json                   what the rows depend on (see `reference_rows`)
    cost.json                       what making them cost
    step-000000-000.safetensors     'BATCH.CALL': what one network call said about one micro batch, [B, k, C, H, W],
                                    float32: k rows for each of its B pairs

A shard's metadata hold the positions of its micro batches, a checksum of each tensor and the shard's cost. It is
written under another name, synced and renamed, so one that is there is whole. Steps are independent of each other.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import UserError
from ..files import atomic_path, write_json
from ..ledger import FILE_NAME, Ledger

FORMAT = 1
"""version of the folder's layout, recorded in its settings"""
_MEND = "delete it and run the same command again"


@dataclass(frozen=True)
class Batch:
    """What the frozen networks said about one micro batch of B pairs.

    Attributes:
        positions: of its pairs in the global batch.
        calls: predictions in the order of the calls, [k·B, C, H, W] each: k rows for every pair, one block of B after
            another.
    """

    positions: Sequence[int]
    calls: Sequence[Tensor]


class RowStore:
    """The shards in a folder.

    Args:
        folder: may not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open = lru_cache(maxsize=4)(_read_step)  # a step's micro batches follow each other

    def path(self, step: int, shard: int) -> Path:
        """The file of a shard; steps have one or more."""
        return self.folder / f"step-{step:06d}-{shard:03d}.safetensors"

    def is_empty(self) -> bool:
        """Whether no shard is there."""
        return next(self.folder.glob("step-*.safetensors"), None) is None

    def is_whole(self, step: int, shard: int, positions: Sequence[Sequence[int]]) -> bool:
        """Whether a shard is there, in form, with these micro batches. Checksums are checked on reading."""
        try:
            held = json.loads(_metadata(self.path(step, shard))["positions"])
        except (SafetensorError, OSError, ValueError, KeyError):
            return False
        return bool(held == [list(batch) for batch in positions])

    def write(self, step: int, shard: int, batches: Sequence[Batch], cost: Ledger) -> None:
        """Write one shard, whole or not at all; what a killed attempt left of it is removed.

        Raises:
            UserError: the disk is full or not writable.
        """
        path = self.path(step, shard)
        for leftover in self.folder.glob(f".{path.name}.*.partial"):
            leftover.unlink(missing_ok=True)
        tensors = {
            f"{number}.{call}": _by_pair(prediction, len(batch.positions))
            for number, batch in enumerate(batches)
            for call, prediction in enumerate(batch.calls)
        }
        metadata = {
            "positions": json.dumps([list(batch.positions) for batch in batches]),
            "checksums": json.dumps({name: _checksum(tensor) for name, tensor in tensors.items()}),
            "cost": json.dumps(cost.as_dict()),
        }
        with atomic_path(path) as partial:
            partial.write_bytes(save(tensors, metadata))

    def read(self, step: int, positions: Sequence[int]) -> list[Tensor]:
        """What was said about these pairs, [k·B, C, H, W] for each call: as if they had been asked about together.

        They need not be a micro batch that was made, but must be of one latent shape. Read-only memory maps are the
        source; what is returned is a copy of these pairs alone.

        Raises:
            UserError: rows are missing, damaged or altered; names the file and the mend.
        """
        held = self._open(self.folder, step)
        missing = [position for position in positions if position not in held]
        if missing:
            raise UserError(
                f"{self.folder} holds no rows for step {step}, position {missing[0]}; run the same command again to "
                "make them"
            )
        pairs = [(*held[position],) for position in positions]
        calls = len(pairs[0][0])
        return [_by_call(torch.stack([tensors[call][row] for tensors, row in pairs])) for call in range(calls)]

    def has_cost(self) -> bool:
        """Whether `save_cost` has been called."""
        return (self.folder / FILE_NAME).exists()

    def save_cost(self) -> None:
        """Write `cost.json`: the sum over the shards that are there, so that nothing counts twice."""
        total = Ledger()
        for path in sorted(self.folder.glob("step-*.safetensors")):
            cost = json.loads(_metadata(path)["cost"])
            total.network_evaluations += cost["network_evaluations"]
            total.seconds += cost["seconds"]
        write_json(
            self.folder / FILE_NAME,
            {"seconds": round(total.seconds, 3), "network_evaluations": total.network_evaluations},
        )


def _by_pair(prediction: Tensor, pairs: int) -> Tensor:
    """[k·B, ...] -> [B, k, ...], float32, on the CPU."""
    rows = prediction.detach().to("cpu", torch.float32)
    return rows.unflatten(0, (-1, pairs)).transpose(0, 1).contiguous()


def _by_call(rows: Tensor) -> Tensor:
    """[B, k, ...] -> [k·B, ...]."""
    return rows.transpose(0, 1).flatten(0, 1).contiguous()


def _read_step(folder: Path, step: int) -> dict[int, tuple[list[Tensor], int]]:
    """Position -> (memory-mapped predictions of its micro batch, one per call; its row in them)."""
    held: dict[int, tuple[list[Tensor], int]] = {}
    for path in sorted(folder.glob(f"step-{step:06d}-*.safetensors")):
        try:
            metadata = _metadata(path)
            batches, checksums = json.loads(metadata["positions"]), json.loads(metadata["checksums"])
            with safe_open(path, framework="pt") as file:
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in checksums}
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise UserError(f"{path} is damaged ({error}); {_MEND}") from error
        if any(_checksum(tensor) != checksums[name] for name, tensor in tensors.items()):
            raise UserError(f"{path} was altered after it was made; {_MEND}")
        for number, positions in enumerate(batches):
            calls = [tensors[name] for name in _calls(tensors, number)]
            held |= {position: (calls, row) for row, position in enumerate(positions)}
    return held


def _calls(tensors: dict[str, Tensor], batch: int) -> list[str]:
    """Names of one micro batch's tensors, in the order of the calls."""
    names = [name for name in tensors if re.fullmatch(rf"{batch}\.\d+", name)]
    return sorted(names, key=lambda name: int(name.split(".")[1]))


def _checksum(tensor: Tensor) -> str:
    return f"{zlib.crc32(tensor.contiguous().view(torch.uint8).numpy().data):08x}"


def _metadata(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})
