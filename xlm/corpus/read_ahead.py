"""Windows of texts that are read before the first is scored, so that texts of one length share a batch."""

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
"""Number of texts that are read ahead."""

READ_AHEAD_CHARACTERS = 1 << 20
"""Number of characters after which no more texts are read ahead."""


def read_ahead(
    items: Iterable[Item],
    length: Callable[[Item], int],
    *,
    most: int = READ_AHEAD,
    characters: int | None = None,
) -> Iterator[list[Item]]:
    """Yield windows of texts, each ended by the text that fills it.

    Args:
        items: The texts, or what holds them; read as they are needed.
        length: Returns the number of characters of one of them.
        most: Maximum number of items in a window.
        characters: Number of characters at which a window is full too; ``None`` for ``READ_AHEAD_CHARACTERS``.
    """
    return grouped(items, length, most=most, characters=READ_AHEAD_CHARACTERS if characters is None else characters)


def growing_windows(items: Iterable[Item], length: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Yield texts in windows as ``read_ahead`` does, but the first of one text, each next one of up to twice as many.

    The first result is thus available as soon as the first text is.
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
    """Return the number of characters of a text; 0 for other values, which are refused later, by their place."""
    return len(text) if isinstance(text, str) else 0


def windows(rows: Iterable[Row], *, read_at_once: int = READ_AHEAD) -> Iterator[list[Row]]:
    """Yield windows of rows that are scored together: consecutive rows of one file.

    Args:
        rows: Of any number of files, read as windows are taken.
        read_at_once: Maximum number of rows in a window.
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
    """Return bytes that differ for any two rows that differ."""
    return line_of([row.file, row.number, row.text, row.problem])
