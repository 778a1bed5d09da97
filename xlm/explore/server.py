"""The server of the page, and the thread that computes its answers."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from xlm.errors import InputError, XLMError

_Result = TypeVar("_Result")

_SECONDS_TO_END = 3
_SECONDS_TO_ASK = 10
_LONGEST_SHOWN = 80  # maximum number of characters of a host name shown in a message


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that accepts connections; ``serve`` answers them.

    Args:
        host: Name or address of this machine.
        port: Port; 0 for any free one.

    Raises:
        InputError: The port is in use or not permitted, or the host is not this machine.
    """
    with _reporting(host, port):
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            if sys.platform != "win32":  # on Windows, SO_REUSEADDR would let others take over the port
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(128)
        except OSError:
            listening.close()
            raise
    return listening


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server that listens at a host name or address.

    Raises:
        InputError: The host is not a known name or address.
    """
    with _reporting(host):
        addresses = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in addresses)


@contextmanager
def _reporting(host: str, port: int | None = None) -> Iterator[None]:
    """Turn an error of the operating system into an ``InputError`` about the host or port."""
    try:
        yield
    except (OSError, UnicodeError) as error:  # UnicodeError for impossible names, such as 64 letters without a dot
        system = error if isinstance(error, OSError) else None
        in_use = system is not None and system.errno in (errno.EADDRINUSE, errno.EACCES)
        reason = "not the name of a machine" if system is None else system.strerror or str(system)
        address = ascii(host)[1:-1][:_LONGEST_SHOWN] + ("" if port is None else f", port {port}")
        raise InputError(
            "the page cannot be served at this address",
            where="--port" if in_use else "--host",
            found=f"{address}: {reason}",
            remedy="--port 0 takes any free port" if in_use else "--host 127.0.0.1 serves this machine alone",
        ) from error


def address_of(listening: socket.socket) -> str:
    """Return the address of the page for a browser on this machine."""
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "::1" if listening.family == socket.AF_INET6 else "127.0.0.1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class BusyError(XLMError):
    """The maximum number of requests is already being computed or waiting."""


class Worker:
    """Thread that runs functions one after another, in the order of the calls.

    A long request submits its work in steps of one token, so that other requests run in between. A function does
    not run if its caller is cancelled before its turn.

    Args:
        limit: Maximum number of requests at a time.

    Attributes:
        ending: Whether the server is shutting down, so that streams should end early.
    """

    def __init__(self, limit: int) -> None:
        self.ending = False
        self._limit, self._admitted = limit, 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="xlm-explore")

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Admit one request for the duration of a block. Call this in the thread of the event loop only.

        Raises:
            BusyError: Too many requests are admitted already.
        """
        if self._admitted >= self._limit:
            raise BusyError(
                "the model is busy",
                found=f"{self._admitted} requests computed or waiting",
                expected=f"at most {self._limit}",
                remedy="try again in a moment",
            )
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    async def run(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        """Run a function when its turn comes, and return its result or raise its error."""
        return await asyncio.wrap_future(self._thread.submit(function, *arguments))

    def close(self) -> None:
        """Let the running function end, and drop the functions that wait."""
        self.ending = True
        self._thread.shutdown(wait=False, cancel_futures=True)


def serve(app: ASGIApp, worker: Worker, listening: socket.socket) -> None:
    """Answer requests until Ctrl-C or SIGTERM, which ends streams early.

    Args:
        app: The application, from ``make_app``.
        worker: The worker of the application; closed at the end.
        listening: The socket, from ``listen``; closed at the end.

    Raises:
        KeyboardInterrupt: Ctrl-C ended the server.
    """
    try:
        make_server(app, worker).run(sockets=[listening])
    finally:
        worker.close()
        listening.close()


def make_server(app: ASGIApp, worker: Worker) -> uvicorn.Server:
    """Return the server that ``serve`` runs."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        http=_Connection,
        loop="asyncio",
        log_config=None,  # keeps the default of Python: warnings and errors go to stderr
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )
    return _Server(config, worker)


class _Connection(H11Protocol):
    """Connection that closes if no request arrives in time, because the number of open connections is limited."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in its base class
        super().connection_made(transport)
        self.loop.call_later(_SECONDS_TO_ASK, self._close_if_unused)

    def _close_if_unused(self) -> None:
        if not self.cycle:
            self.transport.close()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, worker: Worker) -> None:
        super().__init__(config)
        self._worker = worker

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._worker.ending = True
        super().handle_exit(sig, frame)
