"""Huge pages for a result of hundreds of megabytes that is written once."""

from __future__ import annotations

import ctypes
import mmap
import sys

import torch
from torch import Tensor

_HUGE_PAGE = 1 << 21
_LARGE = 16 * _HUGE_PAGE
"""Bytes from which on it is done: allocators give memory of this size back to the system, so that it is new again."""


def in_huge_pages(result: Tensor) -> Tensor:
    """Asks the system to back a new tensor by huge pages, where it is large and the system has them.

    The system clears memory a page at a time when it is first written to, and each page takes a place in the
    processor's table of pages. With pages of 4 KiB both slow down the writing of large results: ``docs/speed.md``.

    Args:
        result: On the CPU, not written yet.

    Returns:
        The same tensor, wherever its memory is.
    """
    if result.nbytes >= _LARGE and sys.platform == "linux" and not torch.compiler.is_compiling():
        page = mmap.PAGESIZE
        first = -(-result.data_ptr() // page) * page
        size = (result.data_ptr() + result.nbytes - first) // page * page
        # An advice: where it cannot be followed, such as by a kernel without them, nothing changes.
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), mmap.MADV_HUGEPAGE)
    return result
