"""A cluster of Ray: one that is there, found within a bounded time, or one of this machine for the time of a run."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

from xlm.errors import DependencyError, InputError, XLMError, XLMWarning

CONNECT_SECONDS = 30.0
"""How long a cluster is waited for."""

_UNLESS_SET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
    "RAY_worker_niceness": "0",  # workers are what the run is for
}
_SECONDS_BETWEEN = 0.5
_LEAST_SECONDS = 0.1
# How HTTP/2, which Ray's processes speak, begins: the client's words, then a frame of settings from each side.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_FRAME_BYTES, _SETTINGS = 9, 4


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterOptions:
    """Where to work, and with how much.

    Attributes:
        address: ``HOST:PORT`` of the cluster's head, or ``auto`` for the cluster that this machine belongs to; ``None``
            for what the environment's ``RAY_ADDRESS`` says, and without one for a cluster of this machine alone, which
            ends with the run. Not ``ray://``: Ray Data does not work through Ray's server for clients.
        concurrency: How many workers; ``None`` for as many as the cluster has CPUs or GPUs for.
        gpus_per_worker: GPUs of each: a whole number, or less than 1 to share one; 0 computes on CPUs.
        threads_per_worker: Threads, and CPUs, of each.
        connect_seconds: How long to wait for the cluster.

    Raises:
        InputError: GPUs that Ray cannot give.
    """

    address: str | None = None
    concurrency: int | None = None
    gpus_per_worker: float = 0.0
    threads_per_worker: int = 1
    connect_seconds: float = CONNECT_SECONDS

    def __post_init__(self) -> None:
        if self.gpus_per_worker > 1 and self.gpus_per_worker % 1:
            raise InputError(
                "a worker has whole GPUs, or a part of one",
                where="gpus_per_worker",
                found=self.gpus_per_worker,
                expected="a whole number, or less than 1",
            )

    def fits(self, resources: Mapping[str, float]) -> bool:
        """Whether a machine has room for a worker.

        Args:
            resources: What the machine has, by Ray's names.
        """
        room = resources.get("CPU", 0) >= self.threads_per_worker
        return room and resources.get("GPU", 0) >= self.gpus_per_worker

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

    A cluster of several machines may grow, so that it is only warned of when it has no room for a worker yet.

    Raises:
        DependencyError: Ray is not installed.
        XLMError: There is no such cluster, which the message names with how long was tried; or it cannot be joined; or
            this machine alone has no room for a worker.
    """
    ray = import_ray()
    if ray.is_initialized():
        _check_room(ray, options, here=False)
        yield ray
        return
    address = options.address or os.environ.get("RAY_ADDRESS") or "local"
    here = address == "local"
    settings: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "warning"}
    if here:
        settings["include_dashboard"] = False
        if options.concurrency is not None:  # else Ray counts what this process may use
            settings["num_cpus"] = options.concurrency * options.threads_per_worker
    else:
        wait_for(address, options.connect_seconds)
    started = time.monotonic()
    try:
        with _own_signals():
            ray.init(**settings)
    except (Exception, SystemExit) as error:  # Ray ends the process when it has waited in vain
        seconds = time.monotonic() - started
        raise (_not_started(seconds, error) if here else _not_joined(address, seconds, error)) from error
    try:
        _check_room(ray, options, here=here)
        with redirect_stdout(sys.stderr):  # where Ray prints which of its processes have died
            yield ray
    finally:
        ray.shutdown()


def _check_room(ray: Any, options: ClusterOptions, *, here: bool) -> None:
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(map(options.fits, machines)):
        return
    wanted = f"{options.threads_per_worker} CPUs and {options.gpus_per_worker:g} GPUs"
    most = ", ".join(f"{max((has.get(name, 0) for has in machines), default=0):g} {name}s" for name in ("CPU", "GPU"))
    if here:
        raise XLMError(
            "there is no room for a worker on this machine",
            where="--threads-per-worker, --gpus-per-worker",
            found=f"at most {most}",
            expected=wanted,
        )
    warnings.warn(
        f"no machine of the cluster has room for a worker: wanted are {wanted}, and the most that one has is {most}; "
        "waiting until one comes",
        XLMWarning,
        stacklevel=4,
    )


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


def wait_for(address: str, seconds: float) -> None:
    """Returns when somebody answers there as Ray does: Ray itself waits for minutes, and then ends the process.

    Args:
        address: As for ``ClusterOptions``; ``auto`` is taken for answered.
        seconds: How long to wait.

    Raises:
        XLMError: Nobody does, or it is no address to work with.
    """
    if address == "auto":
        return
    if address.startswith("ray://"):
        raise XLMError(
            "Ray Data does not work through Ray's server for clients",
            where=address,
            expected="HOST:PORT of the cluster's head, port 6379 where none was chosen, or auto",
            remedy="run the command on a machine of the cluster, or hand it in: ray job submit -- xlm …",
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise _unreachable(address, 0.0, ValueError("it is not HOST:PORT"))
    started = time.monotonic()
    while True:
        left = started + seconds - time.monotonic()
        try:
            return _greet((host, int(port)), timeout=max(_LEAST_SECONDS, left))
        except (OSError, OverflowError) as error:
            if left < _SECONDS_BETWEEN:
                raise _unreachable(address, time.monotonic() - started, error) from error
        time.sleep(_SECONDS_BETWEEN)


def _greet(place: tuple[str, int], *, timeout: float) -> None:
    with socket.create_connection(place, timeout=timeout) as connection:
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
            return  # it would not understand a word
        connection.sendall(_GREETING)
        found = connection.recv(_FRAME_BYTES, socket.MSG_WAITALL)
    if len(found) < _FRAME_BYTES or found[3] != _SETTINGS:
        raise ConnectionError("somebody answers there, who is not Ray")


def _not_started(seconds: float, error: BaseException) -> XLMError:
    return XLMError(
        "Ray could not be started on this machine",
        where="--engine ray without --address",
        found=f"{_reason(error)}, after {seconds:.0f} s",
        remedy="run it again when the machine has less to do; Ray's logs say more (/tmp/ray/session_latest/logs)",
    )


def _not_joined(address: str, seconds: float, error: BaseException) -> XLMError:
    return XLMError(
        "the cluster of Ray cannot be joined",
        where=address,
        found=f"{_reason(error)}, after {seconds:.0f} s",
        expected="the head of a cluster, of the versions of Ray and Python that are here",
    )


def _unreachable(address: str, seconds: float, error: Exception) -> XLMError:
    return XLMError(
        "there is no cluster of Ray at that address",
        where=address,
        found=f"{_reason(error)}, after {seconds:.0f} s",
        expected="HOST:PORT of a cluster's head, or auto",
        remedy="ray start --head on the machine that is to be the head; without --address and RAY_ADDRESS, this "
        "machine alone does the work",
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return "Ray gave up"
    return str(error).strip() or type(error).__name__
