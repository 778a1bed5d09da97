"""Tensors that FSDP2 has divided among processes.

Only a DTensor has the methods that are looked up here by name. Importing its class takes a second, which a program
without sharding can save.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Return whether this process holds only a part of a tensor."""
    return hasattr(tensor, "device_mesh")


def local_part(tensor: Tensor) -> Tensor:
    """Return this process's part of a sharded tensor, in the same memory; return other tensors unchanged."""
    return _call_if_sharded(tensor, "to_local")


def gather(tensor: Tensor) -> Tensor:
    """Return a sharded tensor as a whole; return other tensors unchanged. All processes must call this."""
    return _call_if_sharded(tensor, "full_tensor")


def _call_if_sharded(tensor: Tensor, name: str) -> Tensor:
    method: Callable[[], Tensor] | None = getattr(tensor, name, None)
    return tensor if method is None else method()


def place_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return a whole tensor moved to the device of a parameter and sharded like it; all processes must call this."""
    tensor = tensor.to(parameter.device)
    mesh: Any = getattr(parameter, "device_mesh", None)
    if mesh is None:
        return tensor
    # A sharded tensor exists, so the module of its class is loaded.
    distributed: Any = sys.modules["torch.distributed.tensor"]
    sharded: Tensor = distributed.distribute_tensor(tensor, mesh, getattr(parameter, "placements", None))
    return sharded
