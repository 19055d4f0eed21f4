"""Shards of pairs: stacked latents in safetensors, each with a JSONL index.

    shard-00000.jsonl         one row per pair: id, prompt, degraded_prompt, seed, ... and a checksum
    shard-00000.cost.json     what making it cost
    shard-00000.safetensors   x_0_win and x_0_lose, [N, C, H, W]; if states are kept (see `trajectory`), states_win and
                              states_lose, [N, K, C, H, W], and state_timesteps, [K]

Every file is written under another name and renamed, the tensors last; so a shard whose tensors are there is whole,
whenever the writing process was killed. All but the cost file follow from the settings alone, byte for byte.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import UserError
from ..files import atomic_path, read_json, read_jsonl, write_json, write_jsonl
from ..ledger import Ledger
from ..tensors import WinLose
from .trajectory import CHECKSUMS, StoredStates, Trajectory

FORMAT = 1
"""version of the folder's layout, recorded in its settings"""
WIN, LOSE = "x_0_win", "x_0_lose"
_MEND = "run the same `ddspo pairs` command again, it makes only what is missing"


@dataclass(frozen=True)
class Layout:
    """Which files hold which pairs: pair n is row n % pairs_per_shard of shard n // pairs_per_shard."""

    folder: Path
    pairs: int
    pairs_per_shard: int

    @property
    def shards(self) -> int:
        """How many shards hold all pairs."""
        return -(-self.pairs // self.pairs_per_shard)

    def numbers(self, shard: int) -> range:
        """The numbers of the pairs in a shard; the last shard may be shorter."""
        first = shard * self.pairs_per_shard
        return range(first, min(first + self.pairs_per_shard, self.pairs))

    def place(self, pair: int) -> tuple[int, int]:
        """(shard, row in it) of the pair with this number."""
        return divmod(pair, self.pairs_per_shard)

    def name(self, shard: int) -> str:
        """What the files of a shard are called."""
        return f"shard-{shard:05d}"

    def tensors(self, shard: int) -> Path:
        """The latents of a shard."""
        return self.folder / f"{self.name(shard)}.safetensors"

    def index(self, shard: int) -> Path:
        """The rows of a shard."""
        return self.folder / f"{self.name(shard)}.jsonl"

    def cost(self, shard: int) -> Path:
        """What a shard cost."""
        return self.folder / f"{self.name(shard)}.cost.json"


def checksum(row: dict[str, Any], win: Tensor, lose: Tensor) -> str:
    """CRC-32 over a pair's row (without its checksum) and the bytes of its latents, 8 hexadecimal digits."""
    told = {key: value for key, value in row.items() if key != "checksum"}
    crc = zlib.crc32(json.dumps(told).encode())
    for side in (win, lose):
        crc = zlib.crc32(side.contiguous().view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def write_shard(
    layout: Layout,
    shard: int,
    x_0: WinLose,
    rows: Sequence[dict[str, Any]],
    cost: Ledger,
    states: Trajectory | None = None,
) -> None:
    """Write one shard, whole or not at all; what an interrupted attempt left of it is removed.

    Args:
        x_0: latents on the CPU, [N, C, H, W] each, stored exactly in their own precision.
        rows: one per pair, with at least "id", "prompt", "degraded_prompt"; "checksum" is added.
        cost: what making this shard cost.
        states: what sampling visited, for the same pairs in the same order.
    """
    if not len(rows) == len(x_0.win) == len(x_0.lose) == len(layout.numbers(shard)):
        raise ValueError(
            f"shard {shard} takes {len(layout.numbers(shard))} pairs, found {len(rows)} rows and {len(x_0.win)} latents"
        )
    for leftover in layout.folder.glob(f".{layout.tensors(shard).stem}.*.partial"):
        leftover.unlink(missing_ok=True)
    if states is not None:
        rows = [{**row, CHECKSUMS: states.checksums(number)} for number, row in enumerate(rows)]
    pairs = zip(rows, x_0.win, x_0.lose, strict=True)
    write_jsonl(layout.index(shard), ({**row, "checksum": checksum(row, win, lose)} for row, win, lose in pairs))
    write_json(layout.cost(shard), cost.as_dict())
    with atomic_path(layout.tensors(shard)) as partial:
        tensors = {WIN: x_0.win.contiguous(), LOSE: x_0.lose.contiguous()}
        partial.write_bytes(save(tensors | (states.tensors() if states is not None else {})))


@dataclass(frozen=True)
class Shard:
    """One shard, opened: its index and its memory-mapped tensors."""

    path: Path
    rows: list[dict[str, Any]]
    win: Any  # a safetensors slice: indexing it reads only those bytes
    lose: Any
    states: StoredStates | None

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W), the same for all pairs of a shard."""
        channels, height, width = self.win.get_shape()[1:]
        return channels, height, width

    @classmethod
    def open(cls, layout: Layout, shard: int) -> Shard:
        """Open a shard and check its form: every file there, none cut short, as many rows as latents, and of one shape.

        Raises:
            UserError: it does not hold what it should; names the file and the mend.
        """
        path, expected = layout.tensors(shard), len(layout.numbers(shard))
        try:
            handle: Any = safe_open(path, framework="pt")
            win, lose = handle.get_slice(WIN), handle.get_slice(LOSE)
            shapes = win.get_shape(), lose.get_shape()
        except FileNotFoundError as error:
            raise UserError(f"{path} does not exist; {_MEND}") from error
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is damaged ({error}); {_MEND}") from error
        if shapes[0] != shapes[1] or len(shapes[0]) != 4 or shapes[0][0] != expected:
            raise UserError(
                f"{path} holds latents of shapes {shapes[0]} and {shapes[1]}, expected {expected} pairs; {_MEND}"
            )
        for sidecar in (layout.index(shard), layout.cost(shard)):
            if not sidecar.exists():
                raise UserError(f"{sidecar} does not exist; {_MEND}")
        try:
            rows = [_interned(row) for row in read_jsonl(layout.index(shard))]
        except UserError as error:
            raise UserError(f"{error}; {_MEND}") from error
        if len(rows) != expected:
            raise UserError(f"{layout.index(shard)} has {len(rows)} rows, expected {expected}; {_MEND}")
        return cls(path, rows, win, lose, StoredStates.open(path, handle, rows))

    def read(self, row: int) -> tuple[Tensor, Tensor]:
        """x_0 of both sides of one pair, [C, H, W] each, in their stored precision.

        Raises:
            UserError: row or latents are not those that were written together.
        """
        win, lose = self.win[row], self.lose[row]
        if checksum(self.rows[row], win, lose) != self.rows[row].get("checksum"):
            raise UserError(
                f"{self.path}, row {row}: latents and index (pair {self.rows[row].get('id')}) are not those that were "
                f"written together, one was altered: delete the file, then {_MEND}"
            )
        return win, lose


def is_whole(layout: Layout, shard: int, ids: Iterable[str]) -> bool:
    """Whether a shard is there, in form, with the pairs of these ids. Checksums are checked on reading only."""
    if not layout.tensors(shard).exists():
        return False
    try:
        read_json(layout.cost(shard))
        return [row.get("id") for row in Shard.open(layout, shard).rows] == list(ids)
    except UserError:
        return False


def _interned(row: dict[str, Any]) -> dict[str, Any]:
    """Keys and repeated texts once in memory, which halves an index of many rows."""
    return {sys.intern(key): sys.intern(value) if isinstance(value, str) else value for key, value in row.items()}
