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
        self._trim = _trim_of_glibc()
        self._bytes = 0 if self._trim is None else _resident_bytes()

    def give_back(self) -> None:
        """Gives free memory back where the process has grown by much; without glibc it does nothing."""
        if self._trim is not None and _resident_bytes() - self._bytes > _MUCH:
            self._trim(0)
            self._bytes = _resident_bytes()


def _trim_of_glibc() -> Callable[[int], int] | None:
    # Where there is no /proc, there is no glibc; other C libraries of Linux have no such function.
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if _STATM.exists() else None


def _resident_bytes() -> int:
    return int(_STATM.read_bytes().split()[1]) * mmap.PAGESIZE
