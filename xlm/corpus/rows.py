"""Rows of text from files of several formats, one at a time; none is dropped, whatever is wrong with it."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from xlm.corpus.files import STDIN, GzipReader, InputFile, LocalFile
from xlm.corpus.formats import (
    Parsed,
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
"""Errors raised by a cut or damaged file or a failing disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    r"""One row of an input file.

    Attributes:
        file: The file's name as it was given, bytes of it that are not UTF-8 as ``\xff``; ``-`` for standard input.
        number: From 1 in its file; a header is not counted. In CSV a row can span several lines.
        text: Its text; ``None`` when it has none that can be read.
        problem: Then why not, else ``None``.
    """

    file: str
    number: int
    text: str | None = None
    problem: str | None = None


class Corpus:
    """The rows of several files, one after the other.

    A file that ends in ``.gz`` is decompressed. A line ends at a line feed, with or without a carriage return in front;
    in tables also at carriage returns alone, where the header ends at one. A text with no other line ends is one row,
    which a warning says. Text is one row a line; JSON lines are one object a line; CSV has a header and may quote, and
    a quoted cell may hold line ends; TSV has a header and may quote cells that end in their line,
    and a quote that encloses no cell is part of the text; Parquet needs pyarrow. All text is UTF-8; a byte order mark
    at the start of a file is dropped. Each iteration reads the files anew, standard input only once.

    A file of no bytes has no rows. Any other has at least one: a table without rows has one that says so.

    Args:
        files: Paths, of which ``-`` is standard input, or files that are elsewhere.
        format: One of ``FORMATS``; ``None`` goes by each file's name, text where that says nothing.
        column: Which column (or key) holds the text; ``None`` means ``text``.

    Raises:
        InputError: A column of plain text, or a Parquet file on standard input or compressed; when rows are taken, a
            table without that column, a header that cannot be read, or a file in UTF-16.
        DependencyError: A Parquet file, and pyarrow is not installed.
    """

    def __init__(
        self,
        files: Iterable[Path | InputFile],
        *,
        format: str | None = None,
        column: str | None = None,
    ) -> None:
        self._files = tuple(LocalFile(file) if isinstance(file, Path) else file for file in files)
        self.damaged: list[str] = []
        """Names of the files read so far that could not be read to their end."""
        self.warnings: list[str] = []
        """Warnings about the files read so far."""
        self._formats = [format or format_of(file.path) for file in self._files]
        self._column = column or "text"
        self._done = 0  # bytes, or rows of Parquet
        self._position: Any = None  # says how far the open file is read
        self._open = ExitStack()
        for file, kind in zip(self._files, self._formats, strict=True):
            if kind == "text" and column is not None:
                raise InputError(
                    "plain text has no columns",
                    where=file.name,
                    found=f"column {column!r}",
                    expected="JSON lines, CSV, TSV or Parquet",
                    remedy="name the format, where the file's name does not",
                )
            if kind == "parquet":
                import_pyarrow()
                if file.path == STDIN or is_gzip(file.path):
                    raise InputError("Parquet is read from plain files only", where=file.name)

    def place(self, number: int, *, file: str | None = None) -> str:
        """Return where a row is, for messages: its file and its number, which in a table is no number of a line.

        Args:
            number: Of the row.
            file: Name of its file; ``None`` for the first.
        """
        name = self._files[0].name if file is None else file
        lines = {"text", "jsonl"}.issuperset(self._formats)
        return f"{_shown(name)}, {'line' if lines else 'row'} {number}"

    @property
    def sizes(self) -> list[tuple[str, int]]:
        """Name and size in bytes of each file; 0 for standard input and for a file that is gone."""
        return [(file.name, file.size()) for file in self._files]

    def bytes_read(self) -> int:
        """Return how far the files are read, in bytes on disk; for Parquet by its share of rows."""
        return self._done + (self._position() if self._position is not None else 0)

    def check(self) -> None:
        """Read the beginning of each file that has a size, so that a wrong table is refused before any work.

        Raises:
            InputError: As for the corpus itself.
        """
        for file, format in zip(self._files, self._formats, strict=True):
            if not file.size():
                continue  # a pipe: what was read would be gone
            try:
                next(self._parse(file, format), None)
            except _DAMAGE:
                pass  # it comes again, in its place among the rows
            finally:
                self.close()
                self._position = None

    def texts(self, *, skip: int = 0) -> Iterator[str]:
        """Yield the text of each row, for callers that cannot go on past a row that has none.

        Args:
            skip: How many rows to leave out at the start.

        Raises:
            InputError: A row has no text, or a file cannot be read to its end; after the rows before it.
        """
        for name, number, text, problem in islice(self._records(), skip, None):
            if text is not None:
                yield text
            else:
                raise self._error(number, problem or "", name)

    def _error(self, number: int, problem: str, name: str) -> InputError:
        if self.damaged:
            return InputError(
                "the file cannot be read" if number == 1 else f"the file cannot be read behind row {number - 1:,}",
                where=_shown(name),
                found=problem.removeprefix(_DAMAGED),
            )
        return InputError(
            "a row cannot be read",
            where=self.place(number, file=name),
            found=problem,
            remedy="convert the text, for example: iconv -f LATIN1 -t UTF-8" if "UTF-8" in problem else None,
        )

    def close(self) -> None:
        """Close the file that is being read, for callers that do not take all rows."""
        self._open.close()

    def __iter__(self) -> Iterator[Row]:
        for name, number, text, problem in self._records():
            yield Row(file=name, number=number, text=text, problem=problem)

    def _records(self) -> Iterator[tuple[str, int, str | None, str | None]]:
        """Yield the fields of each row; making a ``Row`` of them would double the time of ``texts``."""
        self.damaged.clear()
        self.warnings.clear()
        self._done, self._position = 0, None
        for file, format in zip(self._files, self._formats, strict=True):
            name, number, problem = file.name, 0, None
            try:
                for number, (text, wrong) in enumerate(self._parse(file, format), start=1):
                    yield name, number, text, wrong
            except FileNotFoundError:
                problem = "the file is gone"
            except _DAMAGE as error:
                problem = f"{_DAMAGED}{getattr(error, 'strerror', None) or error}"
            self._position = None
            self._done += file.size()
            if problem is not None:
                self.damaged.append(name)
                yield name, number + 1, None, problem

    def _parse(self, file: InputFile, format: str) -> Iterator[Parsed]:
        with ExitStack() as self._open:
            if format == "parquet":
                yield from self._parse_parquet(file)
                return
            opened = self._open.enter_context(file.open())
            self._position = opened.tell if file.size() else None  # a pipe has none
            if is_gzip(file.path):
                unzipped = GzipReader(
                    cast("io.BufferedIOBase", opened),
                    on_trailing=lambda count, offset: self._warn(
                        f"{file.name}: {count:,} bytes at byte {offset:,}, behind the gzip data, are left out"
                    ),
                )
                opened = cast("BinaryIO", self._open.enter_context(io.BufferedReader(unzipped, _BUFFER)))
            name = _shown(file.name)
            if format in ("csv", "tsv"):
                yield from parse_table(opened, format, self._column, name, self._open)
            else:
                key = None if format == "text" else self._column
                yield from parse_lines(opened, key, name, warn=self._warn)

    def _parse_parquet(self, file: InputFile) -> Iterator[Parsed]:
        size, share = file.size(), 0.0
        self._position = lambda: int(size * share)
        for done, (total, row) in enumerate(parse_parquet(file, self._column, self._open), start=1):
            share = done / total
            yield row

    def _warn(self, message: str) -> None:
        self.warnings.append(message)
        warn_caller(message)


def _shown(name: str) -> str:
    return "standard input" if name == "-" else name
