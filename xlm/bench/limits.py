"""What the machine itself can do, measured with torch beside every benchmark of a model; and how time is taken."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from xlm.bench.place import CPU
from xlm.model.packed_linear import multiplies_bfloat16

_SIDE, _NUMBERS = 2048, 1 << 26
_SIDE_ELSEWHERE, _NUMBERS_ELSEWHERE = 8192, 1 << 28
"""Sizes on a GPU: a millisecond's work and 1 GiB, beside which launching it takes nothing and caches hold nothing."""
_ROUNDS = 5


def multiplies(dtype: torch.dtype, device: torch.device = CPU.device) -> bool:
    """Whether a device has units for products of a type; GPUs are taken to have them."""
    if device.type != "cpu" or dtype == torch.float32:
        return True
    return dtype == torch.bfloat16 and multiplies_bfloat16()


def matrix_peak(dtype: torch.dtype, device: torch.device = CPU.device) -> float:
    """The most operations a second, in GFLOP/s, that square matrix products of a type reached in a few tries."""
    side = _SIDE if device.type == "cpu" else _SIDE_ELSEWHERE
    # Processors without units for a type take a hundred times as long: fewer rows then do. Those with units reach
    # their peak only with many.
    rows = side if multiplies(dtype, device) else side // 8
    # Not ones: a GPU that multiplies these takes less power, and runs faster than with numbers that differ.
    left, right = (torch.randn(height, side, dtype=dtype, device=device) for height in (rows, side))
    return 2 * rows * side * side / fastest(lambda: left @ right, device) / 1e9


def reading_bandwidth(device: torch.device = CPU.device) -> float:
    """Gigabytes a second at which a large array was read and summed, the fastest of a few tries."""
    array = torch.zeros(_NUMBERS if device.type == "cpu" else _NUMBERS_ELSEWHERE, device=device)
    return array.nbytes / fastest(array.sum, device) / 1e9


def fastest(work: Callable[[], Any], device: torch.device = CPU.device) -> float:
    """Seconds of the fastest of a few runs on a device, after one that does not count."""
    work()
    return min(seconds(work, device)[0] for _ in range(_ROUNDS))


def seconds(work: Callable[[], Any], device: torch.device = CPU.device) -> tuple[float, Any]:
    """How long some work on a device took until all of it was done, and what it returned."""
    synchronise(device)
    start = time.perf_counter()
    result = work()
    synchronise(device)
    return time.perf_counter() - start, result


def synchronise(device: torch.device) -> None:
    """Waits until a device has done what it was given; a CPU has, once a call returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
