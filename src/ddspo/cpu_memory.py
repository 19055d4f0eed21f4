"""Keep freed memory on CPUs: without it every large activation is handed back to the system and faulted in again."""

from __future__ import annotations

import ctypes
import sys

# Parameters of mallopt(3) in glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_MEBIBYTE = 1 << 20


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed for the next allocation; whether it was told (elsewhere nothing is done).

    Training allocates and frees the same activations in every step. By default glibc maps each of them anew, and the
    kernel clears every page. The cost is memory that stays with the process until it ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {_MMAP_THRESHOLD: 32 * _MEBIBYTE, _TRIM_THRESHOLD: 2048 * _MEBIBYTE - 1, _TOP_PAD: 64 * _MEBIBYTE}
    return all(mallopt(parameter, value) == 1 for parameter, value in settings.items())
