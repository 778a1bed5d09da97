"""Rows of text from files of several formats, one at a time. An unreadable row holds a problem instead of a text."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from xlm.corpus.files import STDIN, GzipReader, InputFile, LocalFile
from xlm.corpus.formats import (
    Record,
    format_of,
    import_pyarrow,
    is_gzip,
    parse_lines,
    parse_parquet,
    parse_table,
)
from xlm.errors import InputError, warn_caller

_BUFFER = 1 << 16
_DAMAGED = "the file is damaged from here on: "
_DAMAGE = (EOFError, zlib.error, OSError)
"""Errors of a truncated or damaged file, or of a failing disk."""


class Row(NamedTuple):
    """One row of an input file: its text, or the problem that made it unreadable.

    Attributes:
        file: Name of the file, as in ``LocalFile.name``; ``-`` for standard input.
        number: Number of the row in its file, from 1, not counting a header. In CSV a row can span several lines.
        text: The text of the row; ``None`` if it cannot be read.
        problem: The reason why the text cannot be read, or ``None``.
        cells: All cells of the row by column, if they are read and it is known which cell belongs to which column. A
            row without text may have them, too.
    """

    file: str
    number: int
    text: str | None = None
    problem: str | None = None
    cells: Mapping[str, Any] | None = None


class Corpus:
    """The rows of several files, one file after the other.

    A file whose name ends in ``.gz`` is decompressed. All text is UTF-8; a byte order mark at the start of a file is
    dropped. Each iteration reads the files again, except standard input, which can be read only once.

    - Plain text has one row per line. JSON lines have one object per line.
    - CSV has a header. A quoted cell may contain line ends.
    - TSV has a header. A quoted cell ends in its line; a quote that does not enclose a cell is part of the text.
    - Parquet needs pyarrow.

    A line ends at a line feed, with or without a carriage return before it. In a table whose header ends at a carriage
    return alone, carriage returns also end the other lines. Plain text whose lines end only in carriage returns is read
    as one row, with a warning.

    An empty file has no rows. A table that has only a header yields one row, whose problem says that the table has no
    rows.

    Args:
        files: Paths (``-`` is standard input) or ``InputFile`` objects.
        format: One of ``FORMATS``; ``None`` to detect it from each file's name, plain text by default.
        column: The column (or key) that holds the text; ``None`` for ``text``.
        whole: Whether rows have ``cells``.

    Raises:
        InputError: A column is given for plain text, or a Parquet file is compressed or on standard input. During
            iteration: a table does not have the column, a header cannot be read, or a file is in UTF-16.
        DependencyError: A file is Parquet, and pyarrow is not installed.
    """

    def __init__(
        self,
        files: Iterable[Path | InputFile],
        *,
        format: str | None = None,
        column: str | None = None,
        whole: bool = False,
    ) -> None:
        self._files = tuple(LocalFile(file) if isinstance(file, Path) else file for file in files)
        self.damaged: list[str] = []
        """Names of the files read so far that could not be read to their end."""
        self.warnings: list[str] = []
        """Warnings about the files read so far."""
        self._formats = [format or format_of(file.path) for file in self._files]
        self._column = column or "text"
        self._whole = whole
        self._done = 0  # total bytes of the files before the open file
        self._position: Any = None  # a function that returns the position in the open file
        self._open = ExitStack()
        self._begun: dict[int, Iterator[Record]] = {}  # the records of pipes that ``columns`` has begun to read
        for file, file_format in zip(self._files, self._formats, strict=True):
            if file_format == "text" and (whole or column is not None):
                raise InputError(
                    "plain text has no columns",
                    where=file.name,
                    found=f"column {self._column!r}",
                    expected="JSON lines, CSV, TSV or Parquet",
                    remedy="if the file is not plain text, pass its format",
                )
            if file_format == "parquet":
                import_pyarrow()
                if file.path == STDIN or is_gzip(file.path):
                    raise InputError(
                        "a Parquet file cannot be compressed with gzip or come from standard input", where=file.name
                    )

    def place(self, number: int, *, file: str | None = None) -> str:
        """Return the place of a row for messages: its file and number.

        Args:
            number: Number of the row.
            file: Name of the file that holds the row; ``None`` for the first file.
        """
        name = self._files[0].name if file is None else file
        lines = {"text", "jsonl"}.issuperset(self._formats)
        return f"{_shown(name)}, {'line' if lines else 'row'} {number}"

    @property
    def sizes(self) -> list[tuple[str, int]]:
        """Name and size in bytes of each file; the size of standard input or a missing file is 0."""
        return [(file.name, file.size()) for file in self._files]

    def bytes_read(self) -> int:
        """Return the number of bytes read from the stored files; for Parquet, estimate it from the rows read."""
        return self._done + (self._position() if self._position is not None else 0)

    def check(self) -> None:
        """Read the beginning of each file except pipes, to find a missing column or wrong encoding before any work.

        Raises:
            InputError: As for iteration over the corpus.
        """
        for file, format in zip(self._files, self._formats, strict=True):
            if not file.size():
                continue  # a pipe can be read only once
            try:
                next(self._parse(file, format), None)
            except _DAMAGE:
                pass  # iteration will report the damage as the problem of a row
            finally:
                self.close()
                self._position = None

    def columns(self, *, required: Sequence[str]) -> list[str]:
        """Return the columns of all files, in order, by the first row of each that has a text; for ``whole`` rows.

        Args:
            required: The columns that each file must have.

        Raises:
            InputError: A file lacks one of them.
        """
        names: dict[str, None] = {}
        for index, (file, format) in enumerate(zip(self._files, self._formats, strict=True)):
            records = self._parse(file, format)
            read: list[Record] = []
            try:
                for record in records:
                    read.append(record)
                    if record[0] is not None:
                        break
            except _DAMAGE as error:  # iteration will report the damage as the problem of a row
                records = _raising(error)
            if file.size():
                self.close()
            else:  # a pipe can be read only once
                self._begun[index] = chain(read, records)
            self._position = None
            own = dict.fromkeys(next((cells for _, _, cells in reversed(read) if cells is not None), ()))
            for name in required if read and read[-1][0] is not None else ():
                if name not in own:
                    found = ", ".join(map(ascii, own))
                    raise InputError("no such column", where=_shown(file.name), found=found, expected=repr(name))
            names |= own
        return list(names)

    def texts(self, *, skip: int = 0) -> Iterator[str]:
        """Yield the text of each row, for callers that need every text.

        Args:
            skip: Number of rows to skip at the start.

        Raises:
            InputError: A row has no text, or a file cannot be read to its end. The error comes after all earlier texts.
        """
        for row in islice(self, skip, None):
            if row.text is None:
                raise self._error(row)
            yield row.text

    def _error(self, row: Row) -> InputError:
        problem = row.problem or ""
        if self.damaged:
            return InputError(
                "the file cannot be read"
                if row.number == 1
                else f"the file cannot be read after row {row.number - 1:,}",
                where=_shown(row.file),
                found=problem.removeprefix(_DAMAGED),
            )
        return InputError(
            "a row cannot be read",
            where=self.place(row.number, file=row.file),
            found=problem,
            remedy="convert the text, for example: iconv -f LATIN1 -t UTF-8" if "UTF-8" in problem else None,
        )

    def close(self) -> None:
        """Close the open file; for callers that do not take all rows."""
        self._open.close()

    def __iter__(self) -> Iterator[Row]:
        self.damaged.clear()
        self.warnings.clear()
        self._done, self._position = 0, None
        for index, (file, format) in enumerate(zip(self._files, self._formats, strict=True)):
            name, number, damage = file.name, 0, None
            records = self._begun.pop(index, None) or self._parse(file, format)
            try:
                for number, (text, problem, cells) in enumerate(records, start=1):
                    yield Row(name, number, text, problem, cells)
            except FileNotFoundError:
                damage = "the file is gone"
            except _DAMAGE as error:
                damage = f"{_DAMAGED}{getattr(error, 'strerror', None) or error}"
            self._position = None
            self._done += file.size()
            if damage is not None:
                self.damaged.append(name)
                yield Row(name, number + 1, problem=damage)

    def _parse(self, file: InputFile, format: str) -> Iterator[Record]:
        with ExitStack() as self._open:
            if format == "parquet":
                yield from self._parse_parquet(file)
                return
            stream = self._open.enter_context(file.open())
            self._position = stream.tell if file.size() else None  # a pipe has no position
            if is_gzip(file.path):
                unzipped = GzipReader(
                    cast("io.BufferedIOBase", stream),
                    on_trailing=lambda count, offset: self.warn(
                        f"{file.name}: {count:,} bytes at byte {offset:,}, after the gzip data, are ignored"
                    ),
                )
                stream = cast("BinaryIO", self._open.enter_context(io.BufferedReader(unzipped, _BUFFER)))
            name = _shown(file.name)
            if format in ("csv", "tsv"):
                yield from parse_table(stream, format, self._column, name, self._open, whole=self._whole)
            else:
                key = None if format == "text" else self._column
                yield from parse_lines(stream, key, name, whole=self._whole, warn=self.warn)

    def _parse_parquet(self, file: InputFile) -> Iterator[Record]:
        size, share = file.size(), 0.0  # the share of the rows that has been read
        self._position = lambda: int(size * share)
        for done, (total, record) in enumerate(parse_parquet(file, self._column, self._open, whole=self._whole), 1):
            share = done / total
            yield record

    def warn(self, message: str) -> None:
        """Warn about a file, and add the warning to ``warnings``."""
        self.warnings.append(message)
        warn_caller(message)


def _raising(error: Exception) -> Iterator[Record]:
    yield from ()
    raise error


def _shown(name: str) -> str:
    return "standard input" if name == "-" else name
