"""Memory for a result of hundreds of megabytes that is written once and then belongs to the caller."""

from __future__ import annotations

import math
import mmap
from contextlib import suppress

import torch
from torch import Tensor

_HUGE_PAGE = 1 << 21
_LARGE = 16 * _HUGE_PAGE
"""Bytes from which on it pays."""


def empty_result(*shape: int) -> Tensor:
    """An uninitialised float32 tensor on the CPU, in huge pages where it is large and the system has them.

    The system clears new memory a page at a time when it is first written to, and with pages of 4 KiB that is a tenth
    of what the head costs for a thousand rows; so is looking up a page for each piece of a row.
    """
    size = 4 * math.prod(shape)
    if size < _LARGE or not hasattr(mmap, "MADV_HUGEPAGE"):  # another system than Linux
        return torch.empty(shape, dtype=torch.float32, device="cpu")
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without them: the same memory in small pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32).view(shape)
