"""Results that are worked out once and remembered, with one bound on how many there are of all kinds together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")

MOST = 1 << 17
"""How many results are remembered at most. The largest take 800 bytes, those of real text 300."""
LONGEST = 48
"""Characters of the longest chunk whose result is remembered."""
MARK = "\x1f"
"""Stands in the keys of some results where no text stands; a control character, of those that are rare."""


class Kind(Protocol):
    """Results of one kind."""

    def __len__(self) -> int: ...

    def clear(self) -> None:
        """Forgets all of them."""
        ...


class Memory:
    """Keeps account of everything that is remembered, and forgets all of it when it is too much."""

    def __init__(self) -> None:
        self._kinds: list[Kind] = []

    def add(self, kind: Kind) -> None:
        """Takes one more kind of results into account."""
        self._kinds.append(kind)

    def has_room(self, more: int) -> bool:
        """Whether so many more results can be remembered."""
        return sum(map(len, self._kinds)) + more <= MOST

    def forget(self) -> None:
        """Forgets everything: cheaper than keeping an order, and the frequent results are soon back."""
        for kind in self._kinds:
            kind.clear()


class Remembered(dict[str, Sequence[T]]):
    """Results by chunk, which are worked out when they are first asked for.

    Args:
        learn: Works out the result of a chunk.
        memory: Where they are counted.
    """

    def __init__(self, learn: Callable[[str], Sequence[T]], memory: Memory) -> None:
        super().__init__()
        self._learn = learn
        self._memory = memory
        memory.add(self)

    def __missing__(self, chunk: str) -> Sequence[T]:
        result = self._learn(chunk)
        if len(chunk) <= LONGEST:
            if not self._memory.has_room(1):
                self._memory.forget()
            self[chunk] = result
        return result
