"""What the machine itself can do, measured with torch beside every benchmark of a model."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from xlm.model.packed_linear import multiplies_bfloat16

_SIDE = 2048
_ROUNDS = 5


def matrix_peak(dtype: torch.dtype) -> float:
    """The most operations a second, in GFLOP/s, that square matrix products of a type reached in a few tries."""
    left, right = (torch.ones(_SIDE, _SIDE, dtype=dtype) for _ in range(2))
    # Processors without units for a type take a hundred times as long: fewer rows then do. Those with units reach
    # their peak only with many.
    native = dtype == torch.float32 or (dtype == torch.bfloat16 and multiplies_bfloat16())
    rows = _SIDE if native else _SIDE // 8
    return 2 * rows * _SIDE * _SIDE / fastest(lambda: left[:rows] @ right) / 1e9


def reading_bandwidth() -> float:
    """Gigabytes a second at which a large array was read and summed, the fastest of a few tries."""
    array = torch.zeros(1 << 26)
    return array.nbytes / fastest(array.sum) / 1e9


def fastest(work: Callable[[], Any]) -> float:
    """Seconds of the fastest of a few runs, after one that does not count."""
    work()
    return min(seconds(work)[0] for _ in range(_ROUNDS))


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long some work took, and what it returned."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result
