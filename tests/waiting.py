"""An end to what waits, for tests of what must not."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class WaitedError(BaseException):
    """Something took too long; no handler of ordinary exceptions takes it for an answer."""


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise ``WaitedError`` in the block when it takes longer."""

    def too_long(number: int, frame: FrameType | None) -> None:
        raise WaitedError(f"more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
