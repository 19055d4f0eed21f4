"""A journal of paid answers: what was answered once is never asked again."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self


class Journal:
    """Answers by key, appended to a JSON-lines file the moment they come. Only keys and places are kept in memory.

    A last line that was torn by a crash is cut off when the file is opened. Threads may share one journal.

    Args:
        path: this process's file.
        others: files of other processes; they are read, never written.
    """

    def __init__(self, path: Path, others: Iterable[Path] = ()) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._places: dict[str, tuple[IO[bytes], int]] = {}
        self._others = [other.open("rb") for other in others]
        for other in self._others:
            self._index(other)
        self._file = path.open("a+b")
        self._file.seek(0)
        os.truncate(self._file.fileno(), self._index(self._file))

    def _index(self, file: IO[bytes]) -> int:
        """Note where every answer of a file stands; where its last whole line ends."""
        end = 0
        for line in file:
            row = _row(line)
            if row is None:
                if not line.endswith(b"\n"):
                    break
            else:
                self._places[row["key"]] = file, end
            end += len(line)
        return end

    def get(self, key: str) -> str | None:
        """The answer under `key`, if there is one."""
        with self._lock:
            if key not in self._places:
                return None
            file, place = self._places[key]
            file.seek(place)
            row = _row(file.readline())
            return None if row is None else str(row["answer"])

    def put(self, key: str, answer: str) -> None:
        """Keep an answer; it has reached the operating system on return."""
        line = json.dumps({"key": key, "answer": answer}, ensure_ascii=True) + "\n"
        with self._lock:
            self._places[key] = self._file, self._file.seek(0, os.SEEK_END)
            self._file.write(line.encode())
            self._file.flush()

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            for file in (self._file, *self._others):
                file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if line.endswith(b"\n") and isinstance(row, dict) and {"key", "answer"} <= set(row) else None
