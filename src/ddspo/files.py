"""Files that are whole or absent: atomic writes, JSON lines, fingerprints, free space."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from .errors import UserError


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; when the block ends well it is synced and renamed to `path`, else removed.

    A reader sees the old file or the new one, never a torn one. Each process writes to its own temporary name.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    make_folder(path.parent)
    try:
        yield partial
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(partial, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _cannot_write(path: Path, error: OSError) -> UserError:
    mends = {errno.ENOSPC: "free some space or ", errno.EDQUOT: "free some space or "}
    mends |= dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "allow writing there or ")
    mend = mends.get(error.errno or 0, "")
    return UserError(f"cannot write {path}: {error.strerror or error}; {mend}choose another folder")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are not there yet.

    Raises:
        UserError: a file is in the way, or permission is missing.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror or error}; choose another folder") from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a missing or malformed file is a `UserError` that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from error


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, whole or not at all; `rows` may be a generator of any length."""
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield one object a line; blank lines are skipped, a malformed line is a `UserError` with its number.

    Raises:
        UserError: no such file, a line that is no JSON object, or text that is not UTF-8.
    """
    try:
        file = path.open(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    with file:
        for number, line in enumerate(_decoded(file, path), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}, line {number}: not valid JSON ({error.msg})") from error
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: expected an object, found {type(row).__name__}")
            yield row


def _decoded(file: IO[str], path: Path) -> Iterator[str]:
    try:
        yield from file
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason}); save it as UTF-8") from error


def append_jsonl(path: Path, row: dict[str, Any]) -> None:
    """Append one line and hand it to the operating system.

    Raises:
        UserError: the disk is full or not writable; the line may then be there in part.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    except OSError as error:
        raise _cannot_write(path, error) from error


def content_id(*parts: str) -> str:
    """A 16-digit hexadecimal id that follows from the content; safe as a file name."""
    return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=8).hexdigest()


class Digest:
    """`content_id` of parts that come one by one, however many."""

    def __init__(self) -> None:
        self._digest, self._separator = hashlib.blake2b(digest_size=8), b""

    def add(self, part: str) -> None:
        """The next part."""
        self._digest.update(self._separator + part.encode())
        self._separator = b"\x1f"

    def text(self) -> str:
        """What `content_id` gives for all parts so far."""
        return self._digest.hexdigest()


def file_fingerprint(paths: Iterable[Path]) -> str:
    """One digest over names and contents of files, in the given order."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """'steps: 25 there, 20 now' for every leaf in which two JSON-like values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in dict.fromkeys([*old, *new]):
            lines += differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
        return lines
    return [] if old == new else [f"{prefix}: {old!r} there, {new!r} now"]


def claim_folder(folder: Path, settings: dict[str, Any], what: str) -> None:
    """Make `folder` the home of one artifact with these settings, or check that it already is.

    `settings.json` inside records them. The same settings again mean: resume. Others are refused with the difference.

    Raises:
        UserError: the folder holds an artifact made with other settings, or other files, or is a file.
    """
    settings = json.loads(json.dumps(settings))
    record = folder / "settings.json"
    if record.exists():
        lines = differences(read_json(record), settings)
        if lines:
            raise UserError(
                f"{folder} holds {what} made with other settings ({'; '.join(lines)}); "
                "choose another folder, or delete it to start over"
            )
        return
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, not a folder; choose another one")
    if folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise UserError(f"{folder} already holds other files and is not {what}; choose an empty folder")
    write_json(record, settings)


def require_free_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Refuse before starting when the disk cannot hold the result.

    Raises:
        UserError: less is free than needed; says both.
    """
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise UserError(
            f"{what} needs {needed_bytes / 1e9:.4g} GB in {folder} and only {free / 1e9:.4g} GB are free; "
            "free some space or choose another folder"
        )
