"""Groups texts or rows into windows that are scored together, so that texts of similar length can share a batch.

A resumed run skips the rows that are done, and checks by their digest that they are the same rows.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from xlm._io.fingerprints import line_of
from xlm._io.grouping import grouped
from xlm._io.resumable import other_input_error
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
    """Yield windows of texts; each window ends with the text that fills it.

    Args:
        items: Texts, or objects with one text each; read as needed.
        length: Returns the number of characters of an item.
        most: Maximum number of items in a window.
        characters: Number of characters at which a window is full even with fewer items; ``None`` for
            ``READ_AHEAD_CHARACTERS``.
    """
    return grouped(items, length, most=most, characters=READ_AHEAD_CHARACTERS if characters is None else characters)


def growing_windows(items: Iterable[Item], length: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Yield windows like ``read_ahead``, the first with one text and each later one with up to twice as many.

    So the first text can be scored as soon as it is read.
    """
    source = iter(items)
    most = 1
    while window := next(read_ahead(source, length, most=most), None):
        yield window
        most = min(2 * most, READ_AHEAD)


def checked_texts(texts: Any) -> Iterable[str]:
    """Return ``texts`` after checking that iteration over it yields one text at a time.

    Raises:
        InputError: The argument is a single text, a mapping, a data frame, or not iterable.
    """
    if isinstance(texts, str):
        raise InputError(
            "texts is a single str, which would be read letter by letter",
            where="texts",
            found=f"a str of {len(texts)} characters",
            expected="a list of texts, or another iterable of them",
            remedy="put the text into a list: [text]",
        )
    if isinstance(texts, bytes) or not hasattr(type(texts), "__iter__"):
        raise InputError(
            "texts is not a list of texts",
            where="texts",
            found=type(texts).__name__,
            expected="a list of str, or another iterable of them",
        )
    if isinstance(texts, Mapping) or hasattr(texts, "columns") or getattr(texts, "ndim", 1) != 1:
        raise InputError(
            "texts has keys or columns, whose names would be read as texts",
            where="texts",
            found=type(texts).__name__,
            expected="a list of texts, or another iterable of them",
            remedy="select the column: texts[NAME]",
        )
    result: Iterable[str] = texts
    return result


def split_at_blank(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield the documents that texts make up: those between blank ones."""
    for is_blank, document in itertools.groupby(texts, lambda text: not text.strip()):
        if not is_blank:
            yield list(document)


def length_of(text: object) -> int:
    """Return the number of characters of a text, or 0 if it is not a str, which a later check reports by its index."""
    return len(text) if isinstance(text, str) else 0


def windows(
    rows: Iterable[Row],
    *,
    read_at_once: int = READ_AHEAD,
    groups: Callable[[Iterable[Row]], Iterable[list[Row]]] | None = None,
) -> Iterator[list[Row]]:
    """Yield windows of rows that are scored together: consecutive rows of one file.

    Args:
        rows: Rows of any number of files; they are read as needed.
        read_at_once: Maximum number of rows, or of groups, in a window.
        groups: Divides the rows of a file into groups that a window must not split; ``None`` for no groups.
    """
    files = itertools.count()
    file = next(files)

    def file_of(row: Row) -> int:
        nonlocal file
        if row.number == 1:  # a new file; its name may be the same as before, because a file may be passed twice
            file = next(files)
        return file

    for _, of_file in itertools.groupby(rows, file_of):
        if groups is None:
            yield from read_ahead(of_file, lambda row: length_of(row.text), most=read_at_once)
            continue
        for window in read_ahead(groups(of_file), _length_of_group, most=read_at_once):
            yield [row for group in window for row in group]


def _length_of_group(rows: Sequence[Row]) -> int:
    return sum(length_of(row.text) for row in rows)


def row_identity(row: Row) -> bytes:
    """Return bytes that identify a row: different rows have different bytes."""
    fields = [row.file, row.number, row.text, row.problem]
    # A cell may be NaN, which line_of refuses.
    return line_of(fields if row.cells is None else [*fields, json.dumps(row.cells)])


class RowsDigest:
    """A running digest of rows."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b()

    def update(self, rows: Iterable[Row]) -> str:
        """Add rows, and return the digest of all rows so far in hexadecimal."""
        for row in rows:
            self._hash.update(row_identity(row))
        return self._hash.hexdigest()

    def skip(self, rows: Iterable[Row], *, done: int, digest: str) -> Iterator[Row]:
        """Add the rows that an earlier run has done to the digest, and return an iterator over the other rows.

        Args:
            rows: All rows of the input.
            done: Number of rows that the earlier run has done.
            digest: Digest of these rows; ignored if ``done`` is 0.

        Raises:
            InputError: The first ``done`` rows are not the rows that the earlier run has done.
        """
        source = iter(rows)
        skipped = 0
        for row in itertools.islice(source, done):
            self._hash.update(row_identity(row))
            skipped += 1
        if skipped < done:
            raise _other_rows(done, found=f"{skipped:,} rows")
        if done and self._hash.hexdigest() != digest:
            raise _other_rows(done, found="other texts")
        return source


def check_same_rows(rows: Iterable[Row], *, done: int, digest: str) -> None:
    """Check that rows are exactly the rows of a finished run. The arguments are those of ``RowsDigest.skip``.

    Raises:
        InputError: There are fewer or more rows than in the finished run, or different rows.
    """
    more = sum(1 for _ in RowsDigest().skip(rows, done=done, digest=digest))
    if more:
        raise _other_rows(done, found=f"{done + more:,} rows")


def _other_rows(done: int, *, found: str) -> InputError:
    otherwise = "start again without --resume, after removing the unfinished files of the other run"
    return other_input_error(f"the first {done:,} rows", found=found, otherwise=otherwise)
