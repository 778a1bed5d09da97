"""Results that are worked out once and remembered, with a bound on how many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")

MOST = 1 << 16
"""How many results are remembered at most."""
LONGEST = 48
"""Characters of the longest chunk whose result is remembered, so that what is remembered stays small."""


class Remembered(dict[str, Sequence[T]]):
    """Results by chunk, which are worked out when they are first asked for.

    Args:
        learn: Works out the result of a chunk.
    """

    def __init__(self, learn: Callable[[str], Sequence[T]]) -> None:
        super().__init__()
        self._learn = learn

    def __missing__(self, chunk: str) -> Sequence[T]:
        result = self._learn(chunk)
        if len(chunk) <= LONGEST:
            if len(self) >= MOST:
                self.clear()  # cheaper than keeping an order, and the frequent ones are soon back
            self[chunk] = result
        return result

    def remember(self, chunks: Sequence[str], results: Iterable[Sequence[T]]) -> None:
        """Keeps the results of several chunks of at most ``LONGEST`` characters, unless there are too many of them."""
        if len(self) + len(chunks) > MOST:
            self.clear()
        if len(chunks) <= MOST:
            self.update(zip(chunks, results, strict=True))
