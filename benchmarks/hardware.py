"""The device of a benchmark: the form of the models on it, timing, and the limits of the hardware."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from xlm.inference.loading import check_device
from xlm.inference.packed_linear import multiplies_bfloat16
from xlm.model.inputs import check_device_exists
from xlm.model.linear import linear

_MATRIX_SIZE, _ARRAY_SIZE = 2048, 1 << 26
_GPU_MATRIX_SIZE, _GPU_ARRAY_SIZE = 8192, 1 << 28
"""Sizes for a GPU: a millisecond of work, so that launching it takes no share, and 1 GiB, more than any cache."""
_RUNS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceSetup:
    """A device, and the form of the models on it.

    Attributes:
        device: Device of both libraries.
        packed: Whether this library's model is packed by ``for_inference`` in several types, and the peer in float32,
            as on a CPU. Otherwise both models are used as loaded, in bfloat16, as on a GPU.
    """

    device: torch.device
    packed: bool

    @property
    def dtype(self) -> str:
        """Type of the loaded weights in both libraries, and of the peer's computation."""
        return "float32" if self.packed else "bfloat16"

    def label(self, peer: str | None) -> str | None:
        """Return a peer's name in a report, with its type unless that is float32."""
        return peer if self.packed or peer is None else f"{peer} {self.dtype}"


CPU = DeviceSetup(device=torch.device("cpu"), packed=True)


def device_setup(name: str) -> DeviceSetup:
    """Return the setup for a device named on the command line.

    Raises:
        InputError: There is no such device.
    """
    check_device(dtype="bfloat16", device=name)
    check_device_exists(name)
    device = torch.device(name)
    return CPU if device.type == "cpu" else DeviceSetup(device=device, packed=False)


def has_matrix_units(dtype: torch.dtype, device: torch.device = CPU.device) -> bool:
    """Return whether a device has hardware for matrix products of a type; every GPU is assumed to have it."""
    if device.type != "cpu" or dtype == torch.float32:
        return True
    return dtype == torch.bfloat16 and multiplies_bfloat16()


def matrix_peak(dtype: torch.dtype, device: torch.device = CPU.device) -> float:
    """Return the highest speed, in GFLOP/s, of a few products of square matrices of a type, by the fastest library."""
    size = _MATRIX_SIZE if device.type == "cpu" else _GPU_MATRIX_SIZE
    # Without hardware for a type, products take a hundred times as long, so they have fewer rows. With it, only many
    # rows reach the peak.
    rows = size if has_matrix_units(dtype, device) else size // 8
    # Random numbers, because a GPU that multiplies ones draws less power and runs faster than on real data.
    left, right = (torch.randn(height, size, dtype=dtype, device=device) for height in (rows, size))
    seconds = fastest(lambda: left @ right, device)
    if device.type == "cpu":
        seconds = min(seconds, fastest(lambda: linear(left, right)))
    return 2 * rows * size * size / seconds / 1e9


def memory_bandwidth(device: torch.device = CPU.device) -> float:
    """Return the highest speed, in GB/s, of summing a large array in a few runs."""
    array = torch.zeros(_ARRAY_SIZE if device.type == "cpu" else _GPU_ARRAY_SIZE, device=device)
    return array.nbytes / fastest(array.sum, device) / 1e9


def fastest(work: Callable[[], Any], device: torch.device = CPU.device) -> float:
    """Return the seconds of the fastest of a few runs, after a warm-up."""
    work()
    return min(timed(work, device)[0] for _ in range(_RUNS))


def timed(work: Callable[[], Any], device: torch.device = CPU.device) -> tuple[float, Any]:
    """Run some work on a device to its end, and return the seconds and the result."""
    synchronize(device)
    start = time.perf_counter()
    result = work()
    synchronize(device)
    return time.perf_counter() - start, result


def synchronize(device: torch.device) -> None:
    """Wait until a device has finished its work; on a CPU, there is nothing to wait for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
