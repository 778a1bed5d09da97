"""Free memory that batches leave behind in the process, given back to the system.

Batches differ in size, so what one frees seldom fits the next, and glibc keeps it: hundreds of megabytes at the
published size. Its own call to give it back takes milliseconds, so it is made only when there is much.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from pathlib import Path

_STATM = Path("/proc/self/statm")
_MUCH = 64 * 1024 * 1024
"""Bytes by which the process has grown; batches of small models never leave so many."""


class Leftovers:
    """Watches how much memory the process holds, from now on."""

    def __init__(self) -> None:
        self._trim = trim_of_glibc()
        self._bytes = _resident_bytes() if self._trim else 0

    def give_back(self) -> None:
        """Gives free memory back where the process has grown by much; without glibc it does nothing."""
        if self._trim and _resident_bytes() - self._bytes > _MUCH:
            self._trim(0)
            self._bytes = _resident_bytes()


def trim_of_glibc() -> Callable[[int], int] | None:
    """The call that gives free memory back, but for so many bytes; ``None`` where there is none."""
    try:
        _STATM.read_bytes()
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # no /proc, or another C library, which has no such function
        return None
    trim.argtypes, trim.restype = (ctypes.c_size_t,), ctypes.c_int
    return trim


def _resident_bytes() -> int:
    return int(_STATM.read_bytes().split()[1]) * mmap.PAGESIZE
