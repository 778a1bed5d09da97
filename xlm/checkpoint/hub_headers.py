"""Headers of which the hub's library makes paths in its cache: what is no plain name never gets to it.

It joins a file's ETag to the directory of the blobs as it came, so that one with ``..`` would write to, link or remove
any file, and two files of one ETag would be one. Who can send it is the server that ``HF_ENDPOINT`` names, or whoever
answers in its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from huggingface_hub import get_session
from huggingface_hub.utils import _http

from xlm.checkpoint.hub import COMMIT

_TAG = re.compile(r'(W/)?"?\w[\w.+=~-]*"?', re.ASCII)
_ALLOWED = {"ETag": _TAG, "X-Linked-Etag": _TAG, "X-Repo-Commit": COMMIT}
_MAKERS = ("_GLOBAL_CLIENT_FACTORY", "_GLOBAL_BACKEND_FACTORY")
"""Where the library keeps what makes its sessions; from version 1, and before."""
_TAG_HERE: ContextVar[str | None] = ContextVar("_TAG_HERE", default=None)
"""What ETags become in the block that is being run; ``None`` outside, and in other threads, which fetch other files."""


@contextmanager
def plain_headers(tag: str) -> Iterator[None]:
    """A block in which the library sees such headers only where they are plain names; otherwise as if left out.

    What other threads ask for meanwhile is left as it is.

    Args:
        tag: What it sees for every ETag that is one: a name for this content alone. For the hub itself these are the
            same.
    """
    _look_at_all_sessions()
    before = _TAG_HERE.set(tag)
    try:
        yield
    finally:
        _TAG_HERE.reset(before)


def _look_at_all_sessions() -> None:
    """Has the library's session looked at, and each one that takes its place after a connection that failed.

    ``set_client_factory`` would close the session that other threads are using.
    """
    for name in _MAKERS:
        make = getattr(_http, name, None)
        if make is not None and getattr(make, "func", None) is not _looked_at:
            setattr(_http, name, partial(_looked_at, make))
    _looked_at(get_session)


def _looked_at(make: Callable[[], Any]) -> Any:
    session = make()
    hooks = session.event_hooks if hasattr(session, "event_hooks") else session.hooks  # httpx or requests
    if _leave_out not in hooks["response"]:
        hooks["response"].append(_leave_out)
    return session


def _leave_out(response: Any, *_: object, **__: object) -> None:
    tag = _TAG_HERE.get()
    if tag is None or response.request.method != "HEAD":
        return
    for name, allowed in _ALLOWED.items():
        if not allowed.fullmatch(response.headers.get(name, "")):
            response.headers.pop(name, None)
        elif allowed is _TAG:
            response.headers[name] = f'"{tag}"'
