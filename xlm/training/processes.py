"""The processes of one run: one alone, or those that torchrun starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from xlm.errors import ConfigError, TrainingError


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
def joined(device: str, *, timeout: int) -> Iterator[Processes]:
    """Joins the processes that torchrun started, and leaves them at the end; one process needs nothing.

    Where the caller has joined them already (``torch.distributed.init_process_group``), that group is used and stays.

    Args:
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU where there is one.
        timeout: Seconds after which a process that waits for another gives up.

    Raises:
        ConfigError: A GPU is asked for where there is none.
        TrainingError: Another process is gone, or did not answer in time.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("There is no GPU", where="run.device", found=device, expected="cpu, or auto")
    on_gpu = device != "cpu" and torch.cuda.is_available()
    is_joined = dist.is_available() and dist.is_initialized()
    count = dist.get_world_size() if is_joined else int(os.environ.get("WORLD_SIZE", "1"))
    local = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(local)
    if count == 1:
        yield Processes(rank=0, count=1, device=local)
        return
    if not is_joined:
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(seconds=timeout))
    try:
        yield Processes(rank=dist.get_rank(), count=dist.get_world_size(), device=local)
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise TrainingError(
            "Another process of the run is gone, or does not answer",
            where=f"process {dist.get_rank()} of {dist.get_world_size()}",
            found=str(error).partition("\n")[0],
            remedy="see what the others said last; --resume goes on from the last checkpoint",
        ) from error
    finally:
        if not is_joined:
            dist.destroy_process_group()
