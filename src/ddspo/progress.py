"""Progress of long work: done, rate and time left, on standard error, from the main process only."""

from __future__ import annotations

import os
import sys
from multiprocessing import parent_process
from typing import Any

from tqdm import tqdm


def announce(text: str) -> None:
    """One line on standard error, from the main process only."""
    if int(os.environ.get("RANK", "0")) == 0:
        tqdm.write(text, file=sys.stderr)


def progress(total: int, description: str, unit: str, done: int = 0) -> tqdm[Any]:
    """A bar on a terminal; on a pipe (a log file, CI) one plain line every ten seconds instead of a redrawn bar."""
    interactive = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=done,
        desc=description,
        unit=f" {unit}",
        mininterval=0.2 if interactive else 10.0,
        maxinterval=1.0 if interactive else 20.0,
        ascii=not interactive,
        dynamic_ncols=interactive,
        ncols=None if interactive else 100,
        disable=int(os.environ.get("RANK", "0")) > 0 or parent_process() is not None,
    )
