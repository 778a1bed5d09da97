"""What is read before the first of it is scored: windows of texts, of which those of one length share a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from xlm.scoring.rows import Row

Item = TypeVar("Item")

READ_AHEAD = 4096
"""Texts that are read before the first of them is scored, so that those of one length can share a batch."""

READ_AHEAD_CHARACTERS = 1 << 20
"""Characters after which no more texts are read ahead."""


def read_ahead(
    items: Iterable[Item],
    length: Callable[[Item], int],
    *,
    most: int = READ_AHEAD,
    begins: Callable[[Item], bool] = lambda item: False,
) -> Iterator[list[Item]]:
    """Yields texts in windows: as many as can be held, so that those of one length find each other.

    Args:
        items: The texts, or what holds them.
        length: Says how many characters one of them has.
        most: Most items of a window; it is also full at ``READ_AHEAD_CHARACTERS``.
        begins: Says of which items a window is to begin with them.
    """
    window: list[Item] = []
    characters = 0
    for item in items:
        if window and begins(item):
            yield window
            window, characters = [], 0
        window.append(item)
        characters += length(item)
        if len(window) == most or characters >= READ_AHEAD_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


def windows(rows: Iterable[Row], *, read_at_once: int = READ_AHEAD) -> Iterator[list[Row]]:
    """The rows that are scored together: some of one file that follow each other.

    Args:
        rows: Of any number of files, read as windows are taken.
        read_at_once: Most rows of a window.
    """
    return read_ahead(rows, lambda row: len(row.text or ""), most=read_at_once, begins=lambda row: row.number == 1)


def row_identity(row: Row) -> bytes:
    """What rows are told apart by."""
    return f"{row.file}\t{row.number}\t{row.text}\t{row.problem}\n".encode("utf-8", "backslashreplace")
