"""Clients that go away before they are answered. Oracle: what is computed, counted, once nobody waits for it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.requests import ClientDisconnect

from tests.explore.small import GENERATE, JSON, Slow, Small
from xlm.explore.app import SECURITY_HEADERS
from xlm.explore.requests import Limits


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
def test_a_client_that_leaves_ends_its_stream(
    demo_files: Path, monkeypatch: pytest.MonkeyPatch, spec_version: str
) -> None:
    small = Small(demo_files, positions=120)
    slow = Slow(small, monkeypatch)
    slow.gate.set()
    body = json.dumps({**GENERATE, "max_new_tokens": 100}).encode()
    alone = small.client().post("/api/generate", content=body, headers=JSON)
    assert len(alone.text.splitlines()) > 20
    slow.steps = 0

    async def run() -> None:
        gone = asyncio.Event()
        asked = False

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", "body": body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if slow.steps >= 5:
                gone.set()
                if spec_version == "2.4":
                    raise OSError("the client has gone")
            await asyncio.sleep(0)

        headers = [(b"host", b"127.0.0.1:8000"), (b"content-type", b"application/json")]
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"spec_version": spec_version},
            "http_version": "1.1",
            "scheme": "http",
            "method": "POST",
            "root_path": "",
            "path": "/api/generate",
            "query_string": b"",
            "headers": headers,
        }
        with suppress(ClientDisconnect):  # how it is told to the server is the framework's business
            await small.app(scope, receive, send)
        with small.worker.admitted():  # and it no longer counts among those inside
            assert small.worker._admitted == 1

    asyncio.run(run())
    assert 5 <= slow.steps < 10
    small.worker.close()


def send(address: str, path: str, content: bytes, *, length: int | None = None) -> socket.socket:
    """Sends a request, and leaves its answer unread."""
    port = urlsplit(address).port
    assert port is not None
    connection = socket.create_connection(("127.0.0.1", port))
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(content) if length is None else length}\r\n\r\n".encode() + content)
    return connection


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_nobody_waits_for_any_more_is_not_computed(demo_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, gate = Small(demo_files, limits=Limits(requests=4)), threading.Event()
    computed: list[str] = []
    score, continuation = small.explorer.score, small.explorer.continuation

    def counted_score(asked: Any) -> Any:
        computed.append("text")
        return score(asked)

    def counted_continuation(asked: Any) -> Iterator[Any]:
        computed.append("prompt")
        yield from continuation(asked)

    monkeypatch.setattr(small.explorer, "score", counted_score)
    monkeypatch.setattr(small.explorer, "continuation", counted_continuation)
    text = json.dumps({"text": "The", "lang": "en"}).encode()
    with small.served() as address:
        small.worker._thread.submit(gate.wait, 30)  # something that takes long
        left = [send(address, path, text) for path in ("/api/score", "/api/generate") for _ in range(2)]
        wait_until(lambda: small.worker._admitted == 4)
        for connection in left:
            connection.close()
        wait_until(lambda: small.worker._admitted == 0)
        with send(address, "/api/score", text) as connection:
            wait_until(lambda: small.worker._admitted == 1)
            gate.set()
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
    assert computed == ["text"]


def test_what_runs_when_its_client_leaves_ends_by_itself(demo_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, gate, begun = Small(demo_files), threading.Event(), threading.Event()
    score = small.explorer.score

    def slow(asked: Any) -> Any:
        begun.set()
        assert gate.wait(30)
        return score(asked)

    monkeypatch.setattr(small.explorer, "score", slow)
    text = json.dumps({"text": "The", "lang": "en"}).encode()
    with small.served() as address:
        with send(address, "/api/score", text):
            assert begun.wait(10)
        wait_until(lambda: small.worker._admitted == 0)
        with send(address, "/api/score", text) as connection:
            gate.set()
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_more_requests_than_are_let_in_get_the_headers_too(demo_files: Path) -> None:
    small = Small(demo_files)
    with small.served() as address:
        waiting = [send(address, "/api/score", b"{", length=10) for _ in range(64)]
        wait_until(lambda: small.app._active == 64)
        with send(address, "/api/score", b"{}") as connection:
            answer = connection.recv(10_000).decode().lower()
        for one in waiting:
            one.close()
        wait_until(lambda: small.app._active == 0)
        with send(address, "/api/score", b"{}") as connection:
            assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")
    assert answer.startswith("http/1.1 503 ")
    assert "retry-after: 1\r\n" in answer
    for name, value in SECURITY_HEADERS.items():
        assert answer.count(f"{name}: {value}\r\n".lower()) == 1
