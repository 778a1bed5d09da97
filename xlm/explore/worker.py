"""One thread that computes, shared by a bounded number of requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from xlm.errors import XLMError

_Result = TypeVar("_Result")


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
