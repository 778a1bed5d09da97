"""The web application of ``xlm explore``: its paths and answers, and the guard that decides which requests it answers.

Any web page can make a browser send requests to this machine. Without the guard, every page could keep the model busy.
After DNS rebinding, where the page's own host name resolves to 127.0.0.1, a page could also read the answers.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack
from importlib import resources
from typing import Any, TypeVar

import anyio
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xlm.errors import InputError, LanguageError, XLMError
from xlm.explore.explorer import Explorer, Json
from xlm.explore.requests import ContinueRequest, ExportRequest, ScoreRequest, TooLargeError, read_request
from xlm.explore.server import BusyError, Worker

_Result = TypeVar("_Result")

_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]/@\s]+)(:[0-9]{1,5})?")

_CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)

SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Headers of every response: the browser loads files of this server only, and no other page may embed this page."""

_SECONDS_FOR_BODY = 10
_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_STATUS: tuple[tuple[type[XLMError], int], ...] = (
    (TooLargeError, 413),
    (BusyError, 503),
    (InputError, 400),
    (LanguageError, 400),
    (XLMError, 500),
)


def make_app(
    explorer: Explorer, worker: Worker, *, names: frozenset[str] = frozenset(), any_address: bool = False
) -> Guard:
    """Return the application that serves the page.

    Args:
        explorer: Computes the answers.
        worker: Runs the computation of the answers.
        names: As for ``Guard``.
        any_address: As for ``Guard``.
    """
    files = _static_files()
    description = explorer.describe()

    async def file(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in files:
            raise HTTPException(404)
        content, media_type = files[name]
        return Response(content, media_type=media_type)

    async def model(request: Request) -> Response:
        return _JSON(description)

    async def score(request: Request) -> Response:
        score_request = read_request(ScoreRequest, await _body(request, explorer.limits.body), explorer.limits)
        with worker.admitted():
            return _JSON(await _unless_left(request, worker.run(explorer.score, score_request)))

    async def table(request: Request) -> Response:
        return await export(request, explorer.table, "text/tab-separated-values")

    async def picture(request: Request) -> Response:
        return await export(request, explorer.picture, "image/png")

    async def export(request: Request, compute: Callable[[ExportRequest], bytes], media_type: str) -> Response:
        export_request = read_request(ExportRequest, await _body(request, explorer.limits.body), explorer.limits)
        with worker.admitted():
            return Response(await _unless_left(request, worker.run(compute, export_request)), media_type=media_type)

    async def generate(request: Request) -> Response:
        continue_request = read_request(ContinueRequest, await _body(request, explorer.limits.body), explorer.limits)
        with ExitStack() as admission:
            admission.enter_context(worker.admitted())
            steps = explorer.continuation(continue_request)
            # Compute the first step before the response begins, so that an invalid request still gets an error status.
            first = await _unless_left(request, worker.run(next, steps))
            return _Lines(_lines(worker, first, steps), admission.pop_all())

    routes = [
        Route("/", file),
        Route("/static/{name}", file),
        Route("/api/model", model),
        Route("/api/score", score, methods=["POST"]),
        Route("/api/table", table, methods=["POST"]),
        Route("/api/picture", picture, methods=["POST"]),
        Route("/api/generate", generate, methods=["POST"]),
    ]
    handlers = {
        XLMError: _on_xlm_error,
        HTTPException: _on_http_error,
        _ClientLeftError: _on_client_left,
        Exception: _on_bug,
    }
    # The guard wraps the whole application, so that it also adds headers to the response of _on_bug. Middleware of
    # Starlette would not.
    return Guard(Starlette(routes=routes, exception_handlers=handlers), names=names, any_address=any_address)


class _JSON(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        # ASCII, because a text may contain a lone surrogate, which UTF-8 cannot encode.
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class _Lines(StreamingResponse):
    """Response of JSON lines, sent as they are computed.

    The request counts as admitted until the last line is sent or the client disconnects.
    """

    def __init__(self, lines: AsyncIterator[bytes], admission: ExitStack) -> None:
        super().__init__(lines, media_type="application/jsonl")
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._admission:
            await super().__call__(scope, receive, send)


async def _lines(worker: Worker, first: Json, steps: Iterator[Json]) -> AsyncIterator[bytes]:
    def line(content: Json) -> bytes:
        return bytes(_JSON(content).body) + b"\n"

    yield line(first)
    try:
        while not worker.ending and (step := await worker.run(next, steps, None)) is not None:
            yield line(step)
    except XLMError as error:
        yield line(_described(error))


class _ClientLeftError(Exception):
    """The client has disconnected."""


async def _unless_left(request: Request, work: Coroutine[Any, Any, _Result]) -> _Result:
    """Return the result of the work, unless the client disconnects.

    Raises:
        _ClientLeftError: The client has disconnected. Work that waits for its turn is cancelled. Work that has begun
            runs to its end, which the limits of requests bound, and its result is dropped.
    """

    async def leaves() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(leaves())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise _ClientLeftError
    finally:
        working.cancel()
        leaving.cancel()


async def _body(request: Request, limit: int) -> bytes:
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "a POST request needs Content-Type: application/json")
    body = bytearray()
    try:
        with anyio.fail_after(_SECONDS_FOR_BODY):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    found = f"more than {limit:,} bytes"
                    raise TooLargeError("the request is too large", where="body", found=found, limit=limit)
    except ClientDisconnect:
        raise HTTPException(400, "the request was cut off") from None
    except TimeoutError:
        raise HTTPException(408, f"the request did not arrive within {_SECONDS_FOR_BODY} seconds") from None
    return bytes(body)


def _static_files() -> dict[str, tuple[bytes, str]]:
    """Return the content and media type of each static file, by name.

    The files are read once, so that no path in a request reaches the file system.
    """
    files = {}
    for entry in (resources.files("xlm.explore") / "static").iterdir():
        suffix = "." + entry.name.rpartition(".")[2]
        if suffix in _MEDIA_TYPES:
            files[entry.name] = (entry.read_bytes(), _MEDIA_TYPES[suffix])
    return files


def _described(error: XLMError) -> Json:
    names = ("what", "where", "found", "expected", "remedy")
    fields = {name: str(value) for name in names if (value := getattr(error, name)) is not None}
    return {"error": {**fields, "what": error.what[:1].upper() + error.what[1:]}}


async def _on_xlm_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, XLMError)
    status = next(status for error_class, status in _STATUS if isinstance(error, error_class))
    return _JSON(_described(error), status_code=status, headers={"Retry-After": "1"} if status == 503 else None)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _JSON({"error": {"what": error.detail}}, status_code=error.status_code, headers=error.headers)


async def _on_client_left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # the client has left, so this is never sent


async def _on_bug(request: Request, error: Exception) -> Response:
    # The traceback goes to the log, not to the page.
    return _JSON({"error": {"what": "Something went wrong; see the log of xlm explore"}}, status_code=500)


class Guard:
    """Wrapper that refuses requests with foreign host names or from foreign pages, and adds ``SECURITY_HEADERS``.

    Args:
        app: Application that answers the accepted requests.
        names: Host names that a request may use besides ``localhost`` and loopback addresses.
        any_address: Whether a request may use any IP address as host, for a server that other machines reach.
        limit: Maximum number of requests at a time. uvicorn has a limit too, but responds without the headers.
    """

    def __init__(
        self, app: ASGIApp, *, names: frozenset[str] = frozenset(), any_address: bool = False, limit: int = 64
    ) -> None:
        self._app, self._names, self._any_address = app, names, any_address
        self._limit, self._active = limit, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI specifies."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        reason = self.refusal(headers, page=scope["method"] == "GET" and scope["path"] == "/")
        if reason is not None:
            refused = JSONResponse({"error": {"what": "The request was refused", "found": reason}}, status_code=403)
            return await refused(scope, receive, send_with_headers)
        if self._active >= self._limit:
            error = {"what": "Too many requests at a time", "remedy": "try again in a moment"}
            busy = JSONResponse({"error": error}, status_code=503, headers={"Retry-After": "1", "Connection": "close"})
            return await busy(scope, receive, send_with_headers)
        self._active += 1
        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            self._active -= 1

    def refusal(self, headers: Mapping[str, str], *, page: bool) -> str | None:
        """Return why a request is refused, or ``None``.

        Args:
            headers: Headers of the request by lower-case name.
            page: Whether the request is for the page itself. Links of other sites may lead there: it contains no data.
        """
        host = headers.get("host", "")
        if not self._is_ours(host):
            return "a host name that does not belong to this machine"
        if headers.get("origin", f"http://{host}").lower() != f"http://{host}".lower():
            return "a page of another origin"
        site = headers.get("sec-fetch-site", "none")
        followed = page and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if site not in ("none", "same-origin") and not followed:
            return "a page of another site"
        return None

    def _is_ours(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].strip("[]").lower()
        if name == "localhost" or name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or self._any_address  # DNS rebinding works with names only, never with addresses
