"""Headers of which the hub's library makes paths in its cache: what is no plain name never gets to it.

It joins a file's ETag to the directory of the blobs as it came, so that one with ``..`` would write to, link or remove
any file, and two files of one ETag would be one. Who can send it is the server that ``HF_ENDPOINT`` names, or whoever
answers in its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import get_session

from xlm.checkpoint.hub import COMMIT

_TAG = re.compile(r'(W/)?"?\w[\w.+=~-]*"?', re.ASCII)
_ALLOWED = {"ETag": _TAG, "X-Linked-Etag": _TAG, "X-Repo-Commit": COMMIT}


@contextmanager
def plain_headers(tag: str) -> Iterator[None]:
    """A block in which the library sees such headers only where they are plain names; otherwise as if left out.

    Args:
        tag: What it sees for every ETag that is one: a name for this content alone. For the hub itself these are the
            same.

    It looks at the library's own session: one that the library makes anew inside the block, after a connection that
    could not be made, is not looked at.
    """
    session: Any = get_session()
    hooks = session.event_hooks if hasattr(session, "event_hooks") else session.hooks  # httpx or requests

    def leave_out(response: Any, *_: object, **__: object) -> None:
        if response.request.method == "HEAD":
            for name, allowed in _ALLOWED.items():
                if not allowed.fullmatch(response.headers.get(name, "")):
                    response.headers.pop(name, None)
                elif allowed is _TAG:
                    response.headers[name] = f'"{tag}"'

    hooks["response"].append(leave_out)
    try:
        yield
    finally:
        hooks["response"].remove(leave_out)
