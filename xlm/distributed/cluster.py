"""Connection to a Ray cluster: an existing cluster, or one that is started on this machine and ends with the run."""

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

from xlm._io.dependencies import needing
from xlm.errors import InputError, XLMError, XLMWarning

_RAY_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray sends no usage statistics
    "RAY_worker_niceness": "0",  # with Ray's default of 15, other programs would slow the workers down
}
_RETRY_SECONDS = 0.5
_MIN_TIMEOUT = 0.1
_LOGS = "/tmp/ray/session_latest/logs"
# A Ray server speaks HTTP/2 (RFC 9113, section 3.4): the client sends a preface and a settings frame, and the server
# answers with a settings frame.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_FRAME_HEADER_BYTES, _SETTINGS = 9, 4


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterOptions:
    """Options that choose a Ray cluster and the resources of its workers.

    Attributes:
        address: ``HOST:PORT`` of the head node, or ``auto`` for the cluster that this machine belongs to. ``None``
            means the environment variable ``RAY_ADDRESS`` or, if it is not set, a cluster of this machine alone that
            ends with the run. Ray Data does not support ``ray://``.
        concurrency: Number of workers; ``None`` for as many as the cluster's CPUs and GPUs allow.
        gpus_per_worker: Number of GPUs of each worker: a whole number, or less than 1 to share a GPU. With 0, workers
            compute on CPUs.
        threads_per_worker: Number of threads of each worker, and of CPUs reserved for it.
        connect_timeout: Seconds to wait for an answer of the cluster.

    Raises:
        InputError: Ray cannot assign ``gpus_per_worker`` GPUs.
    """

    address: str | None = None
    concurrency: int | None = None
    gpus_per_worker: float = 0.0
    threads_per_worker: int = 1
    connect_timeout: float = 30.0

    def __post_init__(self) -> None:
        if self.gpus_per_worker > 1 and self.gpus_per_worker % 1:
            raise InputError(
                "the number of GPUs of a worker is neither whole nor less than 1",
                where="gpus_per_worker",
                found=self.gpus_per_worker,
                expected="a whole number, or less than 1",
            )

    def fits(self, resources: Mapping[str, float]) -> bool:
        """Return whether a machine has room for a worker, given its resources under Ray's names."""
        cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
        return cpus >= self.threads_per_worker and gpus >= self.gpus_per_worker

    def workers(self, resources: Mapping[str, float]) -> int:
        """Return the number of workers to start on a cluster, given its resources under Ray's names."""
        if self.concurrency is not None:
            return self.concurrency
        workers = resources.get("CPU", 0) / self.threads_per_worker
        if self.gpus_per_worker:
            workers = min(workers, resources.get("GPU", 0) / self.gpus_per_worker)
        return max(1, int(workers))


def import_ray() -> Any:
    """Import Ray and Ray Data, and return the module ``ray``.

    Raises:
        DependencyError: Ray Data is not installed.
    """
    for name, value in _RAY_DEFAULTS.items():
        os.environ.setdefault(name, value)
    with needing("Ray Data is not installed", where="--engine ray", install="'xlm[ray]'"):
        import ray
        import ray.data
    return ray


@contextmanager
def connected(options: ClusterOptions) -> Iterator[Any]:
    """Connect to a cluster for the duration of a block, and yield the module ``ray``.

    If this process is connected already, the connection is used and stays open.

    Raises:
        DependencyError: Ray is not installed.
        XLMError: No cluster answers in time, the cluster cannot be joined, or the run uses this machine alone and it
            has no room for a worker. A larger cluster without room only causes a warning, because it may grow.
    """
    ray = import_ray()
    if ray.is_initialized():
        _check_room(ray, options, local=False)
        yield ray
        return
    address = options.address or os.environ.get("RAY_ADDRESS") or "local"
    local = address == "local"
    settings: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "warning"}
    if local:
        settings["include_dashboard"] = False
        if options.concurrency is not None:  # otherwise Ray counts the CPUs available to this process
            settings["num_cpus"] = options.concurrency * options.threads_per_worker
    else:
        wait_for(address, options.connect_timeout)
    start = time.monotonic()
    try:
        with _own_signals():
            ray.init(**settings)
    except (Exception, SystemExit) as error:  # SystemExit, because Ray exits the process when it gives up
        raise _init_error(address, time.monotonic() - start, error) from error
    try:
        _check_room(ray, options, local=local)
        with redirect_stdout(sys.stderr):  # Ray prints messages about processes that died
            yield ray
    finally:
        ray.shutdown()


def _check_room(ray: Any, options: ClusterOptions, *, local: bool) -> None:
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(map(options.fits, machines)):
        return
    needed = f"{options.threads_per_worker} CPUs and {options.gpus_per_worker:g} GPUs"
    most = ", ".join(
        f"{max((machine.get(name, 0) for machine in machines), default=0):g} {name}s" for name in ("CPU", "GPU")
    )
    if local:
        raise XLMError(
            "this machine has no room for a worker",
            where="--threads-per-worker, --gpus-per-worker",
            found=f"at most {most}",
            expected=needed,
        )
    warnings.warn(
        f"no machine of the cluster has room for a worker, which needs {needed}; the largest has {most}; "
        "the run waits for a larger machine to join",
        XLMWarning,
        stacklevel=4,
    )


@contextmanager
def _own_signals() -> Iterator[None]:
    """Restore the signal handlers, which Ray replaces when it is called from the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def wait_for(address: str, seconds: float) -> None:
    """Wait until a Ray server answers. Without this check, Ray would wait for minutes and then exit the process.

    Args:
        address: As in ``ClusterOptions``; ``auto`` is not checked.
        seconds: How long to wait.

    Raises:
        XLMError: No Ray server answers in time, or the address is malformed.
    """
    if address == "auto":
        return
    if address.startswith("ray://"):
        raise XLMError(
            "Ray Data does not support Ray Client addresses",
            where=address,
            expected="HOST:PORT of the head node (default port 6379), or auto",
            remedy="run the command on a machine of the cluster, or submit it: ray job submit -- xlm …",
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise _unreachable(address, 0.0, ValueError("not HOST:PORT"))
    start = time.monotonic()
    while True:
        remaining = start + seconds - time.monotonic()
        try:
            return _greet((host, int(port)), timeout=max(_MIN_TIMEOUT, remaining))
        except (OSError, OverflowError) as error:
            if remaining < _RETRY_SECONDS:
                raise _unreachable(address, time.monotonic() - start, error) from error
        time.sleep(_RETRY_SECONDS)


def _greet(address: tuple[str, int], *, timeout: float) -> None:
    with socket.create_connection(address, timeout=timeout) as connection:
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
            return  # the server expects a TLS handshake
        connection.sendall(_PREFACE)
        header = connection.recv(_FRAME_HEADER_BYTES, socket.MSG_WAITALL)
    if len(header) < _FRAME_HEADER_BYTES or header[3] != _SETTINGS:
        raise ConnectionError("the server at this address is not Ray")


def _init_error(address: str, seconds: float, error: BaseException) -> XLMError:
    if address == "local":
        return XLMError(
            "Ray could not start on this machine",
            where="--engine ray without --address",
            found=_reason(error, seconds),
            remedy=f"run the command again when the machine is less busy; Ray's logs have the details ({_LOGS})",
        )
    return XLMError(
        "this process cannot join the Ray cluster",
        where=address,
        found=_reason(error, seconds),
        expected="a head node with the same versions of Ray and Python as this machine",
    )


def _unreachable(address: str, seconds: float, error: Exception) -> XLMError:
    return XLMError(
        "no Ray cluster answers at this address",
        where=address,
        found=_reason(error, seconds),
        expected="HOST:PORT of the head node, or auto",
        remedy="start a head node: ray start --head; or leave out --address and RAY_ADDRESS to use this machine alone",
    )


def _reason(error: BaseException, seconds: float) -> str:
    reason = "Ray gave up" if isinstance(error, SystemExit) else str(error).strip() or type(error).__name__
    return f"{reason}, after {seconds:.0f} s"
