"""One part of a preference set made into shards: pictures of one size are encoded together and stored together."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..families.pipeline import PipelineFamily
from ..files import content_id
from ..ledger import Ledger
from ..rng import seed_for
from ..tensors import WinLose
from .bucket_sizes import Size
from .mixed import MixedLayout
from .pictures import UnusablePictureError, prepare_pair
from .shards import write_shard
from .sources import REPEATED, Example, Skip

Row = dict[str, Any]


@dataclass(frozen=True)
class Prepared:
    """A pair before the autoencoder: pictures (uint8, [3, H, W]) or finished latents ([C, H, W]), and its row."""

    row: Row
    win: Tensor
    lose: Tensor
    is_latent: bool


@dataclass
class _Bucket:
    """Pairs of one size on their way into a shard."""

    waiting: list[Prepared] = field(default_factory=list)
    win: list[Tensor] = field(default_factory=list)
    lose: list[Tensor] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)


@dataclass
class PartRecord:
    """What became of a part's rows.

    Attributes:
        rows: how many were read.
        shards: name, pairs and latent shape of each.
        skipped: reason -> how many.
        first: reason -> the first one's place.
    """

    rows: int = 0
    shards: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def skip(self, reason: str, where: str) -> None:
        """Count a row that is left out."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1
        self.first.setdefault(reason, where)


@dataclass
class PartMaker:
    """Makes parts, each from nothing but its rows: the same shards whenever, and by whichever process.

    Args:
        family: its autoencoder encodes.
        folder: where shards go.
        buckets: from `bucket_sizes`.
        seed: of the run.
        flip: mirror half of the pairs, both sides alike.
        max_upscale: pictures that would have to grow by more are left out.
        batch_pairs: pairs per call of the autoencoder.
        pairs_per_shard: a shard is closed when it holds so many; a multiple of `batch_pairs`.
        degraded: prompt -> its degraded prompts.
    """

    family: PipelineFamily
    folder: Path
    buckets: list[Size]
    seed: int
    flip: bool
    max_upscale: float
    batch_pairs: int
    pairs_per_shard: int
    degraded: dict[str, tuple[str, ...]]

    def make(self, number: int, examples: Iterable[Example | Skip], advance: Any) -> PartRecord:
        """Encode and store one part.

        Args:
            number: of the part, for the names of its shards.
            examples: its rows.
            advance: is called with the number of rows that are done.
        """
        record, cost, seen = PartRecord(), Ledger(), set()
        buckets: dict[tuple[int, ...], _Bucket] = {}
        for entry in self._prepared(examples):
            record.rows += 1
            advance(1)
            if isinstance(entry, Skip):
                record.skip(entry.reason, entry.where)
            elif entry.row["id"] in seen:
                record.skip(REPEATED, entry.row["source"])
            else:
                seen.add(entry.row["id"])
                bucket = buckets.setdefault((*entry.win.shape, entry.win.element_size()), _Bucket())
                bucket.waiting.append(entry)
                if len(bucket.waiting) == self.batch_pairs:
                    self._encode(bucket)
                if len(bucket.rows) == self.pairs_per_shard:
                    self._write(number, bucket, record, cost)
        for size in sorted(buckets):
            if buckets[size].waiting:
                self._encode(buckets[size])
            if buckets[size].rows:
                self._write(number, buckets[size], record, cost)
        return record

    def _prepared(self, examples: Iterable[Example | Skip]) -> Iterator[Prepared | Skip]:
        """Rows in order; while the autoencoder works, threads decode the next ones (decoding leaves Python's lock)."""
        stream, ahead = iter(examples), deque[Future[Prepared | Skip]]()
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            while True:
                room = 4 * self.batch_pairs - len(ahead)
                ahead.extend(pool.submit(self._prepare, entry) for entry in islice(stream, room))
                if not ahead:
                    return
                yield ahead.popleft().result()

    def _prepare(self, entry: Example | Skip) -> Prepared | Skip:
        if isinstance(entry, Skip):
            return entry
        win, lose = _loaded(entry.win), _loaded(entry.lose)  # a file is read once, for its digest and its picture
        identity = content_id(entry.prompt, _digest(win), _digest(lose))
        row: Row = {
            "id": identity,
            "prompt": entry.prompt,
            "degraded_prompt": self._degraded(entry, identity),
            "kind": "imported",
            "source": entry.where,
        }
        if isinstance(win, Tensor) and isinstance(lose, Tensor):
            return Prepared(row, win, lose, is_latent=True)
        assert not isinstance(win, Tensor) and not isinstance(lose, Tensor)
        flipped = self.flip and bool(seed_for(self.seed, "import", "flip", identity) & 1)
        try:
            pair = prepare_pair(win, lose, self.buckets, flipped=flipped, max_upscale=self.max_upscale)
        except UnusablePictureError as error:
            return Skip(str(error), entry.where)
        return Prepared(row | pair.sizes, pair.win, pair.lose, is_latent=False)

    def _degraded(self, entry: Example, identity: str) -> str | None:
        variants = self.degraded.get(entry.prompt, ())
        if not variants:
            return entry.degraded_prompt
        return variants[seed_for(self.seed, "import", "variant", identity) % len(variants)]

    def _encode(self, bucket: _Bucket) -> None:
        """Both sides of a batch in one call; finished latents pass through."""
        pairs, bucket.waiting = bucket.waiting, []
        stacked = torch.stack([pair.win for pair in pairs] + [pair.lose for pair in pairs])
        if not pairs[0].is_latent:
            stacked = self._latents(stacked, pairs)
        sides = WinLose.split(stacked)
        bucket.win.append(sides.win)
        bucket.lose.append(sides.lose)
        bucket.rows += [pair.row for pair in pairs]

    def _latents(self, pictures: Tensor, pairs: Sequence[Prepared]) -> Tensor:
        try:
            latents = self.family.encode_images(pictures.float() / 255).cpu().to(self.family.dtype)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{len(pictures)} pictures of {tuple(pictures.shape[-2:])} px at once do not fit in memory; lower "
                "--batch-pairs and import into a new folder"
            ) from error
        if not latents.isfinite().all():
            raise UserError(
                f"the autoencoder gave numbers that are not finite for a pair between {pairs[0].row['source']} and "
                f"{pairs[-1].row['source']}; its weights are damaged or, with model.frozen_dtype fp16, its latents "
                "overflow: set model.frozen_dtype to bf16 or fp32"
            )
        return latents

    def _write(self, number: int, bucket: _Bucket, record: PartRecord, cost: Ledger) -> None:
        x_0, rows = WinLose(torch.cat(bucket.win), torch.cat(bucket.lose)), bucket.rows
        shard = {
            "name": f"shard-{number:05d}-{len(record.shards):03d}",
            "pairs": len(rows),
            "latent_shape": list(x_0.win.shape[1:]),
        }
        write_shard(MixedLayout.of(self.folder, [shard]), 0, x_0, rows, cost)
        record.shards.append(shard)
        cost.seconds = 0.0
        bucket.win, bucket.lose, bucket.rows = [], [], []


def _loaded(side: bytes | Path | Tensor) -> bytes | Tensor:
    """A file's bytes, b"" if it cannot be read, which counts as missing when it is decoded; others as they are."""
    if not isinstance(side, Path):
        return side
    try:
        return side.read_bytes()
    except OSError:
        return b""


def _digest(side: bytes | Tensor) -> str:
    data = bytes(side.contiguous().view(torch.uint8).numpy().data) if isinstance(side, Tensor) else side
    return hashlib.blake2b(data, digest_size=16).hexdigest()
