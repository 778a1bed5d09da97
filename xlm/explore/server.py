"""From an application to a port of this machine, until Ctrl-C."""

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
_LONGEST_SHOWN = 80  # characters of a host


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections from now on; they are answered once ``serve`` runs.

    Args:
        host: Name or address of this machine.
        port: 0 for any that is free.

    Raises:
        InputError: The port is taken or not allowed, or the host is not this machine's.
    """
    with _telling(host, port):
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            if sys.platform != "win32":  # there it would let another program take the port away
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(128)
        except OSError:
            listening.close()
            raise
    return listening


def is_loopback(host: str) -> bool:
    """Whether only this machine itself can reach a server there.

    Raises:
        InputError: It is no name or address that is known here.
    """
    with _telling(host):
        addresses = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in addresses)


@contextmanager
def _telling(host: str, port: int | None = None) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeError) as error:  # the latter for what cannot be a name, such as 64 letters without a dot
        system = error if isinstance(error, OSError) else None
        taken = system is not None and system.errno in (errno.EADDRINUSE, errno.EACCES)
        why = "that is not the name of a machine" if system is None else system.strerror or str(system)
        there = ascii(host)[1:-1][:_LONGEST_SHOWN]
        raise InputError(
            "the page cannot be served there",
            where="--port" if taken else "--host",
            found=f"{there}: {why}" if port is None else f"{there}, port {port}: {why}",
            remedy="--port 0 takes any port that is free" if taken else "--host 127.0.0.1, this machine itself",
        ) from error


def address_of(listening: socket.socket) -> str:
    """The page's address, for a browser on this machine."""
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:  # all addresses, of which one is wanted
        host = "::1" if listening.family == socket.AF_INET6 else "127.0.0.1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class BusyError(XLMError):
    """As many requests as are allowed are being computed or wait already."""


class Worker:
    """Runs functions one after another, in the order in which they were asked for.

    A long request gives its work in steps, a token each, so that others come in between. A function whose caller has
    gone away before its turn is not run.

    Args:
        most: Requests that are let in at a time.

    Attributes:
        ending: Whether what can end early should.
    """

    def __init__(self, most: int) -> None:
        self.ending = False
        self._most, self._inside = most, 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="xlm-explore")

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """A block for one request; for the event loop's thread only.

        Raises:
            BusyError: There are too many already.
        """
        if self._inside >= self._most:
            raise BusyError(
                "the model is busy",
                found=f"{self._inside} requests computed or waiting",
                expected=f"at most {self._most}",
                remedy="try again in a moment",
            )
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    async def run(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        """What the function returns or raises, once its turn has come."""
        return await asyncio.wrap_future(self._thread.submit(function, *arguments))

    def close(self) -> None:
        """Lets what is running end, and drops what waits."""
        self.ending = True
        self._thread.shutdown(wait=False, cancel_futures=True)


def serve(app: ASGIApp, worker: Worker, listening: socket.socket) -> None:
    """Answers requests until Ctrl-C or SIGTERM; what is being streamed ends early.

    Args:
        app: What ``make_app`` returned.
        worker: Its worker, which is closed at the end.
        listening: What ``listen`` returned; closed at the end.

    Raises:
        KeyboardInterrupt: It ended by Ctrl-C.
    """
    try:
        make_server(app, worker).run(sockets=[listening])
    finally:
        worker.close()
        listening.close()


def make_server(app: ASGIApp, worker: Worker) -> uvicorn.Server:
    """The server that ``serve`` runs."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        http=_Connection,
        loop="asyncio",
        log_config=None,  # Python's own: warnings and errors to stderr
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )
    return _Server(config, worker)


class _Connection(H11Protocol):
    """A connection that is closed if no request has come on it in time: there are only so many."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as its base has it
        super().connection_made(transport)
        self.loop.call_later(_SECONDS_TO_ASK, self._close_unless_asked)

    def _close_unless_asked(self) -> None:
        if not self.cycle:
            self.transport.close()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, worker: Worker) -> None:
        super().__init__(config)
        self._worker = worker

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._worker.ending = True
        super().handle_exit(sig, frame)
