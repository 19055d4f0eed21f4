"""A journal of paid answers: what was answered once is never asked again."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Journal:
    """Answers by key, appended to a JSON-lines file the moment they come. Only keys and places are kept in memory.

    A last line that was torn by a crash is cut off when the file is opened. Threads may share one journal.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._file = path.open("a+b")
        self._places: dict[str, int] = {}
        self._file.seek(0)
        end = 0
        for line in self._file:
            row = _row(line)
            if row is None:
                if not line.endswith(b"\n"):
                    break
            else:
                self._places[row["key"]] = end
            end += len(line)
        os.truncate(self._file.fileno(), end)

    def get(self, key: str) -> str | None:
        """The answer under `key`, if there is one."""
        with self._lock:
            if key not in self._places:
                return None
            self._file.seek(self._places[key])
            row = _row(self._file.readline())
            return None if row is None else str(row["answer"])

    def put(self, key: str, answer: str) -> None:
        """Keep an answer; it has reached the operating system on return."""
        line = json.dumps({"key": key, "answer": answer}, ensure_ascii=True) + "\n"
        with self._lock:
            self._places[key] = self._file.seek(0, os.SEEK_END)
            self._file.write(line.encode())
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

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
