"""A cluster of Ray: one that is there, found within a bounded time, or one of this machine for the time of a run."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

from xlm.errors import DependencyError, XLMError

CONNECT_SECONDS = 30.0
"""How long a cluster is waited for."""

_UNLESS_SET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
    "RAY_worker_niceness": "0",  # workers are what the run is for
}
_CLIENT_PORT = 10001
_SECONDS_BETWEEN = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterOptions:
    """Where to work, and with how much.

    Attributes:
        address: ``HOST:PORT`` of the cluster's head, ``ray://HOST:PORT`` of its server for clients, or ``auto`` for the
            cluster that this machine belongs to; ``None`` for what the environment's ``RAY_ADDRESS`` says, and without
            one for a cluster of this machine alone, which ends with the run.
        concurrency: How many workers; ``None`` for as many as the cluster has CPUs or GPUs for.
        gpus_per_worker: GPUs of each, of which fractions can be shared; 0 computes on CPUs.
        threads_per_worker: Threads, and CPUs, of each.
        connect_seconds: How long to wait for the cluster.
    """

    address: str | None = None
    concurrency: int | None = None
    gpus_per_worker: float = 0.0
    threads_per_worker: int = 1
    connect_seconds: float = CONNECT_SECONDS

    def workers(self, resources: dict[str, float]) -> int:
        """How many workers to start.

        Args:
            resources: What the cluster has, by Ray's names.
        """
        if self.concurrency is not None:
            return self.concurrency
        room = resources.get("CPU", 0) / self.threads_per_worker
        if self.gpus_per_worker:
            room = min(room, resources.get("GPU", 0) / self.gpus_per_worker)
        return max(1, int(room))


def import_ray() -> Any:
    """``ray``, with ``ray.data``.

    Raises:
        DependencyError: It is not installed.
    """
    for name, value in _UNLESS_SET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise DependencyError(
            "Ray Data is not installed", where="--engine ray", found=str(error), remedy="pip install 'xlm[ray]'"
        ) from error
    return ray


@contextmanager
def connected(options: ClusterOptions) -> Iterator[Any]:
    """Yields ``ray``, connected to a cluster; a connection that was there before stays.

    Raises:
        DependencyError: Ray is not installed.
        XLMError: There is no such cluster; the message says which address was tried and for how long.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    address = options.address or os.environ.get("RAY_ADDRESS")
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
    if address is None or address == "local":
        least = (options.concurrency or 1) * options.threads_per_worker
        settings |= {"address": "local", "num_cpus": max(os.cpu_count() or 1, least), "include_dashboard": False}
    else:
        settings["address"] = address
        _wait_for(address, options.connect_seconds)
    try:
        started = time.monotonic()
        with _own_signals():
            ray.init(**settings)
    except Exception as error:  # of a process of its own that does not start in time, Ray says no more than that
        seconds = time.monotonic() - started
        here = settings["address"] == "local"
        raise (_not_started(seconds, error) if here else _unreachable(settings["address"], seconds, error)) from error
    try:
        with redirect_stdout(sys.stderr):  # where Ray prints which of its processes have died
            yield ray
    finally:
        ray.shutdown()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keeps what the process does at a signal, which Ray changes when it is called from the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_for(address: str, seconds: float) -> None:
    """Returns when somebody listens there: Ray itself waits long, and then ends the process."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host and not address.startswith("ray://"):
        raise _unreachable(address, 0.0, ValueError("it is not HOST:PORT"))
    try:
        place = (host or port, int(port) if host else _CLIENT_PORT)
    except ValueError as error:
        raise _unreachable(address, 0.0, ValueError("it is not HOST:PORT")) from error
    started = time.monotonic()
    while True:
        try:
            with socket.create_connection(place, timeout=max(0.1, started + seconds - time.monotonic())):
                return
        except OSError as error:
            if time.monotonic() - started + _SECONDS_BETWEEN > seconds:
                raise _unreachable(address, time.monotonic() - started, error) from error
        time.sleep(_SECONDS_BETWEEN)


def _not_started(seconds: float, error: Exception) -> XLMError:
    return XLMError(
        "Ray could not be started on this machine",
        where="--engine ray without --address",
        found=f"{_reason(error)}, after {seconds:.0f} s",
        remedy="run it again when the machine has less to do; Ray's logs say more (/tmp/ray/session_latest/logs)",
    )


def _unreachable(address: str, seconds: float, error: Exception) -> XLMError:
    return XLMError(
        "there is no cluster of Ray at that address",
        where=address,
        found=f"{_reason(error)}, after {seconds:.0f} s",
        expected="HOST:PORT of a cluster's head, ray://HOST:PORT, or auto",
        remedy="ray start --head on the machine that is to be the head; without --address and RAY_ADDRESS, this "
        "machine alone does the work",
    )


def _reason(error: Exception) -> str:
    return str(error).strip() or type(error).__name__
