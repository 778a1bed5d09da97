"""What libraries hold for later: glibc holds freed memory, and oneDNN holds compiled products."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable
from pathlib import Path

_STATM = Path("/proc/self/statm")
_TRIM_BYTES = 64 * 1024 * 1024
"""Growth of the process in bytes after which free memory is returned to the system. Batches of small models never free
this much."""
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of ``mallopt``, from ``malloc.h``."""


class MallocTrim:
    """Returns free memory to the system when the process has grown since the object was made or last trimmed.

    Batches of scoring differ in size, so glibc can seldom reuse the memory of one batch for the next. With the
    published model, it keeps hundreds of megabytes. ``malloc_trim`` takes milliseconds, so it is called only when there
    is much to return.
    """

    def __init__(self) -> None:
        self._trim = find_malloc_trim()
        self._bytes = _resident_bytes() if self._trim else 0

    def trim_if_grown(self) -> None:
        """Return free memory to the system if the process has grown by 64 MB; do nothing without glibc."""
        if self._trim and _resident_bytes() - self._bytes > _TRIM_BYTES:
            self._trim(0)
            self._bytes = _resident_bytes()


def find_malloc_trim() -> Callable[[int], int] | None:
    """Return glibc's ``malloc_trim``, which takes the number of bytes to keep; ``None`` on other systems."""
    try:
        _STATM.read_bytes()
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # no /proc, or a C library without that function
        return None
    trim.argtypes, trim.restype = (ctypes.c_size_t,), ctypes.c_int
    return trim


def keep_freed_memory() -> None:
    """Keep all memory that this process frees, of whatever size, for its next requests; do nothing without glibc.

    Training asks for the same sizes in every step. By default, glibc returns blocks of more than 32 MB at once, and the
    system zeroes them again for the next step.
    """
    if find_malloc_trim() is None:
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never: glibc reads it as an unsigned number


def limit_onednn_cache() -> None:
    """Let oneDNN keep 64 compiled products instead of 1,024, unless the user has set another number.

    It compiles a product for each number of rows, and keeps half a megabyte for each. Has no effect after the first
    product of the process.
    """
    if "DNNL_PRIMITIVE_CACHE_CAPACITY" not in os.environ:  # the older name, over which the newer one wins
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


def _resident_bytes() -> int:
    return int(_STATM.read_bytes().split()[1]) * mmap.PAGESIZE
