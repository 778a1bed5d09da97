"""What is read before the first of it is scored: windows of texts, of which those of one length share a batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from xlm._io.fingerprints import line_of
from xlm._io.grouping import grouped
from xlm.corpus.rows import Row
from xlm.errors import InputError

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


def growing_windows(items: Iterable[Item], length: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Yield texts in windows as ``read_ahead`` does, but the first of one text, each next one of up to twice as many.

    So whoever waits for results has the first one when the first text is there.
    """
    source = iter(items)
    most = 1
    while window := next(read_ahead(source, length, most=most), None):
        yield window
        most = min(2 * most, READ_AHEAD)


def checked_texts(texts: Any) -> Iterable[str]:
    """Return texts, unless they are nothing to iterate over, or would be iterated over by letters or by names.

    Raises:
        InputError: They are a single text, a mapping, a data frame, or none at all.
    """
    if isinstance(texts, str):
        raise InputError(
            "texts is a single str, which would be taken letter by letter",
            where="texts",
            found=f"a str of {len(texts)} characters",
            expected="a list of texts, or another iterable of them",
            remedy="put one text into a list: [text]",
        )
    if isinstance(texts, bytes) or not hasattr(type(texts), "__iter__"):
        raise InputError(
            "texts is not a list of texts",
            where="texts",
            found=type(texts).__name__,
            expected="a list of str, or another iterable of them",
        )
    if isinstance(texts, Mapping) or getattr(texts, "ndim", 1) != 1:
        raise InputError(
            "texts has keys or columns, whose names would be taken for the texts",
            where="texts",
            found=type(texts).__name__,
            expected="a list of texts, or another iterable of them",
            remedy="take the column: texts[NAME]",
        )
    result: Iterable[str] = texts
    return result


def length_of(text: object) -> int:
    """Characters of a text; 0 for what is none, which is refused later, where its place is known."""
    return len(text) if isinstance(text, str) else 0


def windows(rows: Iterable[Row], *, read_at_once: int = READ_AHEAD) -> Iterator[list[Row]]:
    """The rows that are scored together: some of one file that follow each other.

    Args:
        rows: Of any number of files, read as windows are taken.
        read_at_once: Most rows of a window.
    """
    files = itertools.count()
    file = next(files)

    def file_of(row: Row) -> int:
        nonlocal file
        if row.number == 1:  # not by its name: a file may be given twice
            file = next(files)
        return file

    for _, of_file in itertools.groupby(rows, file_of):
        yield from read_ahead(of_file, lambda row: length_of(row.text), most=read_at_once)


def row_identity(row: Row) -> bytes:
    """What rows are told apart by."""
    return line_of([row.file, row.number, row.text, row.problem])
