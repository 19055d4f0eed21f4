"""The one error a user may see."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in the input, told in one line: what is wrong, where, and how to mend it.

    The command line prints it without a traceback and exits with status 2.
    """


def first_line(error: BaseException) -> str:
    """The first line of a library's message, or the error's name where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
