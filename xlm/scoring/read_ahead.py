"""Texts of a stream in windows: enough of them that those of one length can share a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from xlm.tokenizer.batches import grouped

Item = TypeVar("Item")

READ_AHEAD = 4096
"""Texts that are read before the first of them is scored, so that those of one length can share a batch."""

READ_AHEAD_CHARACTERS = 1 << 20
"""Characters after which no more texts are read ahead."""


def read_ahead(items: Iterable[Item], length: Callable[[Item], int], *, most: int = READ_AHEAD) -> Iterator[list[Item]]:
    """Returns an iterator over texts in windows: as many as can be held, so that those of one length find each other.

    Args:
        items: The texts, or what holds them.
        length: Says how many characters one of them has.
        most: Most items of a window; it is also full at ``READ_AHEAD_CHARACTERS``.
    """
    return grouped(items, most=most, characters=READ_AHEAD_CHARACTERS, length=length)


def length_of(text: object) -> int:
    """Characters of a text; 0 for what is none, which is refused later, where its place is known."""
    return len(text) if isinstance(text, str) else 0
