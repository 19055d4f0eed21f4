"""How a verb ends when something happens inside it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import NoReturn

import pytest
import typer

from ddspo.cli_base import plainly
from ddspo.errors import UserError


def raising(error: BaseException) -> Callable[..., None]:
    def command() -> NoReturn:
        raise error

    return plainly(command)


class OutOfMemoryError(RuntimeError):
    """Named as torch's own."""


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("two\nlines"), 2, "error: two lines"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to go on from here"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: no space left on the disk"),
        (OutOfMemoryError("CUDA out of memory"), 2, "error: out of device memory; lower training.micro_batch_pairs"),
    ],
)
def test_one_line_and_a_status(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as caught:
        raising(error)()
    assert caught.value.exit_code == status
    printed = capsys.readouterr().err
    assert printed.startswith(line) and printed.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("bug"), RuntimeError("bug"), OSError(errno.EIO, "bug")])
def test_bugs_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error), match="bug"):
        raising(error)()
