"""The unfinished result on disk: parts of the list of prompts, each made by one process, line by line.

    degraded.jsonl.parts/00003.partial   a part under work: one line per prompt, in order, the last one perhaps torn
    degraded.jsonl.parts/00003.jsonl     a whole part

How the list is cut depends on its length alone. So any number of processes may share the parts, another number may take
up what they left, and the parts in order are the same bytes in every case.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from ..errors import UserError
from ..processes import Process
from ..progress import announce
from .sources import PromptRecord

#: prompts that are measured together; parts and resume points are multiples, so that batches never change
STRIDE = 32
_MOST_PARTS = 256
_LARGEST_PART = 1024
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Parts:
    """The parts of `count` prompts in one folder."""

    folder: Path
    count: int

    @classmethod
    def of(cls, output: Path, count: int) -> Parts:
        """Beside `output`."""
        return cls(output.with_name(f"{output.name}.parts"), count)

    @property
    def size(self) -> int:
        """Prompts per part: small enough to share out short lists, large enough to keep long lists in few files."""
        wanted = -(-self.count // _MOST_PARTS)
        return min(max(-(-wanted // STRIDE), 1) * STRIDE, _LARGEST_PART)

    @property
    def number(self) -> int:
        """How many parts there are."""
        return -(-self.count // self.size)

    def whole(self, part: int) -> Path:
        """Where a finished part stands."""
        return self.folder / f"{part:05d}.jsonl"

    def partial(self, part: int) -> Path:
        """Where a part stands while it is made."""
        return self.folder / f"{part:05d}.partial"

    def length(self, part: int) -> int:
        """Prompts in a part; the last one may be shorter."""
        return min(self.size, self.count - part * self.size)

    def lines(self) -> Iterator[str]:
        """All lines of all parts, in order, each a row with its end of line; every part must be whole."""
        for part in range(self.number):
            with self.whole(part).open(encoding="utf-8", newline="\n") as file:
                yield from file

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def wait_for_all(self) -> None:
        """Return when every part is whole. Files tell: no process group, so no time limit."""
        for part in range(self.number):
            told = False
            while not self.whole(part).exists():
                if not told:
                    announce("degrade: waiting for the parts of the other processes")
                    told = True
                time.sleep(_POLL_SECONDS)

    def missing(self, records: Collection[PromptRecord], process: Process) -> Iterator[tuple[int, PromptRecord]]:
        """(part, record) of everything that this process has still to make, in order; checks what is there already.

        Raises:
            UserError: a part under work belongs to another list.
        """
        stream = iter(records)
        for part in range(self.number):
            own = part % process.count == process.rank and not self.whole(part).exists()
            taken = islice(stream, self.length(part))
            if not own:
                for _ in taken:
                    pass
                continue
            kept = self._kept_ids(part)
            for place, record in enumerate(taken):
                if place >= len(kept):
                    yield part, record
                elif record.id != kept[place]:
                    raise UserError(
                        f"{self.partial(part)}, line {place + 1}: not this list of prompts; delete "
                        f"{self.folder} to start over"
                    )
            if len(kept) == self.length(part):
                os.replace(self.partial(part), self.whole(part))

    def made_by(self, process: Process) -> tuple[int, int]:
        """(prompts already done, prompts in all) of this process."""
        done = total = 0
        for part in process.share(self.number):
            total += self.length(part)
            done += self.length(part) if self.whole(part).exists() else len(self._kept_ids(part))
        return done, total

    def _kept_ids(self, part: int) -> list[str]:
        """Ids in a part under work, which is cut back to whole lines and, unless all are there, to whole strides."""
        path, ids, ends = self.partial(part), list[str](), [0]
        if not path.exists():
            return []
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n") or len(ids) == self.length(part):
                    break
                ids.append(str(json.loads(line)["id"]))
                ends.append(ends[-1] + len(line))
        kept = len(ids) if len(ids) == self.length(part) else len(ids) // STRIDE * STRIDE
        os.truncate(path, ends[kept])
        return ids[:kept]


class PartWriter:
    """Appends rows to the parts that they belong to; a part that is full gets its final name."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._part: int | None = None
        self._file: IO[str] | None = None

    def write(self, part: int, row: dict[str, Any]) -> None:
        """Append one row; rows of a part come in order, one part after the other."""
        if part != self._part:
            self._finish()
            self._parts.folder.mkdir(parents=True, exist_ok=True)
            self._part, self._file = part, self._parts.partial(part).open("a", encoding="utf-8", buffering=1)
        assert self._file is not None
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def _finish(self) -> None:
        if self._file is None or self._part is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._parts.partial(self._part), self._parts.whole(self._part))
        self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._finish()
        elif self._file is not None:
            self._file.close()
