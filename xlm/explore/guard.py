"""Who may ask: the page itself, and programs on this machine; not other pages of the same browser, nor too many.

A page on the web can make a browser send requests to this machine. Without this guard it could not read the answers
but for DNS rebinding, where its own name comes to mean 127.0.0.1; it could keep the model busy all the same.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
"""On every answer: nothing runs or loads but what this server sends as files, and nobody may frame or keep it."""


class Guard:
    """Refuses requests under a foreign name or from a foreign page, and adds ``SECURITY_HEADERS`` to every answer.

    Args:
        app: What answers the others.
        names: Names of this machine that a request may use beside ``localhost`` and loopback addresses.
        any_address: Whether it may also use any address, as it must where the server is not on the loopback only.
        most: Requests that are answered at a time. (The server's own limit would answer without the headers.)
    """

    def __init__(
        self, app: ASGIApp, *, names: frozenset[str] = frozenset(), any_address: bool = False, most: int = 64
    ) -> None:
        self._app, self._names, self._any_address = app, names, any_address
        self._most, self._inside = most, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, as ASGI wants it."""
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
        if self._inside >= self._most:
            error = {"what": "Too many requests at a time", "remedy": "try again in a moment"}
            busy = JSONResponse({"error": error}, status_code=503, headers={"Retry-After": "1", "Connection": "close"})
            return await busy(scope, receive, send_with_headers)
        self._inside += 1
        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            self._inside -= 1

    def refusal(self, headers: Mapping[str, str], *, page: bool) -> str | None:
        """Why a request is refused; ``None`` when it is not.

        Args:
            headers: Its headers, by their names in lower case.
            page: Whether it is for the page itself, to which links may lead from anywhere: it holds no data.
        """
        host = headers.get("host", "")
        if not self._is_ours(host):
            return "a host name that is not this machine's"
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
        return address.is_loopback or self._any_address  # a rebound name is never an address
