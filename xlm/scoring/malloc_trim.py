"""Free memory returned to the system between batches.

Batches differ in size, so the memory of one seldom fits the next, and glibc keeps it: hundreds of megabytes at the
published size. Its ``malloc_trim`` takes milliseconds, so it is called only when there is much to return.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from pathlib import Path

_STATM = Path("/proc/self/statm")
_MUCH = 64 * 1024 * 1024
"""Growth of the process in bytes; batches of small models never leave so many."""


class MallocTrim:
    """Trims the memory of the process when it has grown by much since the object was made or last trimmed."""

    def __init__(self) -> None:
        self._trim = find_malloc_trim()
        self._bytes = _resident_bytes() if self._trim else 0

    def trim_if_grown(self) -> None:
        """Return free memory to the system if the process has grown by much; without glibc, do nothing."""
        if self._trim and _resident_bytes() - self._bytes > _MUCH:
            self._trim(0)
            self._bytes = _resident_bytes()


def find_malloc_trim() -> Callable[[int], int] | None:
    """Return ``malloc_trim``, which takes the number of bytes to keep; ``None`` where there is none."""
    try:
        _STATM.read_bytes()
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # no /proc, or another C library, which has no such function
        return None
    trim.argtypes, trim.restype = (ctypes.c_size_t,), ctypes.c_int
    return trim


def _resident_bytes() -> int:
    return int(_STATM.read_bytes().split()[1]) * mmap.PAGESIZE
