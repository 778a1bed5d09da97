"""A time limit for tests of code that must not hang."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class WaitedError(BaseException):
    """Something took too long. Handlers of ordinary exceptions do not catch it."""


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise ``WaitedError`` in a block that takes longer than the limit."""

    def too_long(number: int, frame: FrameType | None) -> None:
        raise WaitedError(f"more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
