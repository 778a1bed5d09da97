"""The processes of one run: one alone, or those that torchrun starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from xlm.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """This process among those of the run.

    Attributes:
        rank: Its number.
        count: How many there are.
        device: Where it computes.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this one writes the files."""
        return self.rank == 0

    def sums(self, values: list[float]) -> list[float]:
        """Each number summed over the processes, in float64."""
        if self.count == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def wait(self) -> None:
        """Returns when all processes are here."""
        if self.count > 1:
            self.sums([0.0])  # unlike a barrier, it needs no choice of a device


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Joins the processes that torchrun started, and leaves them at the end; one process needs nothing.

    Args:
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU where there is one.

    Raises:
        ConfigError: A GPU is asked for where there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("There is no GPU", where="run.device", found=device, expected="cpu, or auto")
    on_gpu = device != "cpu" and torch.cuda.is_available()
    count = int(os.environ.get("WORLD_SIZE", "1"))
    local = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(local)
    if count == 1:
        yield Processes(rank=0, count=1, device=local)
        return
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Processes(rank=dist.get_rank(), count=dist.get_world_size(), device=local)
    finally:
        dist.destroy_process_group()
