"""The device that a benchmark runs on: how the models compute there, how time is taken, and what it can reach."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from xlm.inference.loading import check_device
from xlm.inference.packed_linear import multiplies_bfloat16
from xlm.model.inputs import check_device_exists

_MATRIX_SIZE, _ARRAY_SIZE = 2048, 1 << 26
_GPU_MATRIX_SIZE, _GPU_ARRAY_SIZE = 8192, 1 << 28
"""On a GPU: a millisecond of work, so that launching it does not count, and 1 GiB, so that no cache holds it."""
_RUNS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceSetup:
    """A device, and the form that the models take on it.

    Attributes:
        device: Where both libraries compute.
        packed: Whether our model is packed by ``for_inference`` in several types, beside a peer in float32, as on a
            CPU. Otherwise both models stay as they are loaded, in bfloat16, as on a GPU.
    """

    device: torch.device
    packed: bool

    @property
    def dtype(self) -> str:
        """Type that both libraries load their weights in, and that the peer computes in."""
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
    """Return whether a device multiplies matrices of a type in hardware; every GPU counts as one that does."""
    if device.type != "cpu" or dtype == torch.float32:
        return True
    return dtype == torch.bfloat16 and multiplies_bfloat16()


def matrix_peak(dtype: torch.dtype, device: torch.device = CPU.device) -> float:
    """Return the highest speed, in GFLOP/s, of a few products of square matrices of a type."""
    size = _MATRIX_SIZE if device.type == "cpu" else _GPU_MATRIX_SIZE
    # Processors without units for a type take a hundred times as long, so they get fewer rows. Those with units reach
    # their peak only with many.
    rows = size if has_matrix_units(dtype, device) else size // 8
    # Random numbers, not ones: a GPU that multiplies ones draws less power and runs faster than on real data.
    left, right = (torch.randn(height, size, dtype=dtype, device=device) for height in (rows, size))
    return 2 * rows * size * size / fastest(lambda: left @ right, device) / 1e9


def memory_bandwidth(device: torch.device = CPU.device) -> float:
    """Return the highest speed, in GB/s, at which a large array is read and summed in a few runs."""
    array = torch.zeros(_ARRAY_SIZE if device.type == "cpu" else _GPU_ARRAY_SIZE, device=device)
    return array.nbytes / fastest(array.sum, device) / 1e9


def fastest(work: Callable[[], Any], device: torch.device = CPU.device) -> float:
    """Return the seconds of the fastest of a few runs, after a warm-up that does not count."""
    work()
    return min(timed(work, device)[0] for _ in range(_RUNS))


def timed(work: Callable[[], Any], device: torch.device = CPU.device) -> tuple[float, Any]:
    """Run some work on a device to its end; return the seconds it took and its result."""
    synchronize(device)
    start = time.perf_counter()
    result = work()
    synchronize(device)
    return time.perf_counter() - start, result


def synchronize(device: torch.device) -> None:
    """Wait until a device has finished its work; on a CPU, work is finished when the call returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
