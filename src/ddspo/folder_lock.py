"""One command at a time in a folder: started twice, it would tear its own files."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from .errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
"""hidden, like everything that does not count as the contents of a folder; gone when the command has ended"""
_TRIES = 100


@contextlib.contextmanager
def only_one(folder: Path, command: str, *, main: bool = True) -> Iterator[None]:
    """Keep `folder` for this process while the block runs.

    The lock is advisory and ends with the process, whatever ends that. Where there are no locks (Windows, some network
    file systems), or nothing can be written, the block runs without one.

    Args:
        folder: made if it is not there, and removed again if the block leaves nothing in it.
        command: told to whoever comes second.
        main: False for all but one of several processes that share the work; they take no lock.

    Raises:
        UserError: another process holds the folder.
    """
    new = not folder.exists()
    lock = _take(folder, command) if main and fcntl is not None else None
    try:
        yield
    finally:
        if lock is not None:
            with contextlib.suppress(OSError):
                (folder / LOCK).unlink()  # while it is held: a moment later it may be another's
            os.close(lock)
            with contextlib.suppress(OSError):
                if new:
                    folder.rmdir()


def _take(folder: Path, command: str) -> int | None:
    """The open lock file; None where locks do not work."""
    for _ in range(_TRIES):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another command has just ended and taken its empty folder away
            continue
        except OSError:  # whatever reads or writes there next will say it better
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _refusal(folder, command, lock) from error
        except OSError:
            os.close(lock)
            return None
        if _is_there(lock, folder / LOCK):
            with contextlib.suppress(OSError):  # a full disk costs the name of the holder, not the lock
                os.truncate(lock, 0)
                os.write(lock, f"process {os.getpid()} on {platform.node()}".encode())
            return lock
        os.close(lock)
    return None


def _is_there(lock: int, path: Path) -> bool:
    """False: whoever held it removed the file between our opening and our locking it."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(lock), os.stat(path))
    return False


def _refusal(folder: Path, command: str, lock: int) -> UserError:
    holder = os.read(lock, 200).decode(errors="replace") or "another process"
    os.close(lock)
    return UserError(
        f"{folder} is in use: `{command}` is already at work there ({holder}); wait until it has ended, or end it, "
        "then run this command again"
    )
