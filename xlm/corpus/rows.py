"""Rows of text out of files of several formats: one at a time, and none is dropped, whatever is wrong with it."""

from __future__ import annotations

import csv
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, BinaryIO, cast

from xlm.corpus.csv_records import TOO_LONG, csv_records, table_lines
from xlm.corpus.gzip_reader import GzipReader
from xlm.corpus.input_files import STDIN, InputFile, LocalFile
from xlm.errors import DependencyError, InputError, warn_caller

FORMATS = ("text", "jsonl", "csv", "tsv", "parquet")
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
_LONGEST_ROW = 1 << 26
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MARKS_OF_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_NO_ROWS = (None, "the table has no rows")
_BUFFER = 1 << 16
_DAMAGED = "the file is damaged from here on: "
_DAMAGE = (EOFError, zlib.error, OSError)
"""What a cut or damaged file or a failing disk raises on the way."""


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
    a quoted cell may hold line ends (see ``csv_records``); TSV has a header and may quote cells that end in their line,
    and a quote that encloses no cell is part of the text; Parquet needs pyarrow. All text is UTF-8; a byte order mark
    at the start of a file is dropped. Each iteration reads the files anew, standard input only once.

    A file of no bytes has no rows. Any other has at least one: a table without rows has one that says so.

    Args:
        files: Paths, of which ``-`` is standard input, or files that are elsewhere.
        form: One of ``FORMATS``; ``None`` goes by each file's name, text where that says nothing.
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
        form: str | None = None,
        column: str | None = None,
    ) -> None:
        self._files = tuple(LocalFile(file) if isinstance(file, Path) else file for file in files)
        self.damaged: list[str] = []
        """Files that end before their time, as far as they were read."""
        self.warnings: list[str] = []
        """What was left out of files, as far as they were read."""
        self._forms = [form or form_of(file.path) for file in self._files]
        self._column = column or "text"
        self._done = 0  # bytes, or rows of Parquet
        self._at: Any = None  # says how far the open file is read
        self._open = ExitStack()
        for file, kind in zip(self._files, self._forms, strict=True):
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
                if file.path == STDIN or _zipped(file.path):
                    raise InputError("Parquet is read from plain files only", where=file.name)

    def place(self, number: int, *, file: str | None = None) -> str:
        """Return where a row is, for messages: its file and its number, which in a table is no number of a line.

        Args:
            number: Of the row.
            file: Name of its file; ``None`` for the first.
        """
        name = self._files[0].name if file is None else file
        lines = {"text", "jsonl"}.issuperset(self._forms)
        return f"{_shown(name)}, {'line' if lines else 'row'} {number}"

    @property
    def sizes(self) -> list[tuple[str, int]]:
        """Each file's name and its bytes; 0 for standard input and for a file that is gone."""
        return [(file.name, file.size()) for file in self._files]

    def bytes_read(self) -> int:
        """How far the files are read, in bytes on disk; for Parquet by its share of rows."""
        return self._done + (self._at() if self._at is not None else 0)

    def check(self) -> None:
        """Reads the beginning of each file that has a size, so that a wrong table is refused before any work.

        Raises:
            InputError: As for the corpus itself.
        """
        for file, kind in zip(self._files, self._forms, strict=True):
            if not file.size():
                continue  # a pipe: what was read would be gone
            try:
                next(self._texts(file, kind), None)
            except _DAMAGE:
                pass  # it comes again, in its place among the rows
            finally:
                self.close()
                self._at = None

    def texts(self, *, skip: int = 0) -> Iterator[str]:
        """Yields the text of each row, for who cannot go on past a row that has none.

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
        """Closes the file that is being read, for who does not take all rows."""
        self._open.close()

    def __iter__(self) -> Iterator[Row]:
        for name, number, text, problem in self._records():
            yield Row(file=name, number=number, text=text, problem=problem)

    def _records(self) -> Iterator[tuple[str, int, str | None, str | None]]:
        """The fields of each row: for who wants the texts alone, a ``Row`` would be half of the time."""
        self.damaged.clear()
        self.warnings.clear()
        self._done, self._at = 0, None
        for file, kind in zip(self._files, self._forms, strict=True):
            name, number, problem = file.name, 0, None
            try:
                for number, (text, wrong) in enumerate(self._texts(file, kind), start=1):
                    yield name, number, text, wrong
            except FileNotFoundError:
                problem = "the file is gone"
            except _DAMAGE as error:
                problem = f"{_DAMAGED}{getattr(error, 'strerror', None) or error}"
            self._at = None
            self._done += file.size()
            if problem is not None:
                self.damaged.append(name)
                yield name, number + 1, None, problem

    def _texts(self, file: InputFile, kind: str) -> Iterator[tuple[str | None, str | None]]:
        with ExitStack() as self._open:
            if kind == "parquet":
                yield from self._of_parquet(file)
                return
            opened = self._open.enter_context(file.open())
            self._at = opened.tell if file.size() else None  # a pipe has no place
            if _zipped(file.path):
                unzipped = GzipReader(
                    cast("io.BufferedIOBase", opened),
                    on_trailing=lambda count, offset: self._warn(
                        f"{file.name}: {count:,} bytes at byte {offset:,}, behind the gzip data, are left out"
                    ),
                )
                opened = cast("BinaryIO", self._open.enter_context(io.BufferedReader(unzipped, _BUFFER)))
            yield from self._parsed(opened, kind, file)

    def _warn(self, message: str) -> None:
        self.warnings.append(message)
        warn_caller(message)

    def _of_parquet(self, file: InputFile) -> Iterator[tuple[str | None, str | None]]:
        size, share = file.size(), 0.0
        self._at = lambda: int(size * share)
        for done, (total, text, problem) in enumerate(_parquet(file, self._column, self._open), start=1):
            share = done / total
            yield text, problem

    def _parsed(self, file: BinaryIO, kind: str, source: InputFile) -> Iterator[tuple[str | None, str | None]]:
        name = _shown(source.name)
        if kind in ("csv", "tsv"):
            # Latin-1, in which a character is a byte: what is not UTF-8 costs one row.
            characters = io.TextIOWrapper(file, "latin-1", newline="")
            self._open.callback(characters.detach)  # else it closes standard input
            lines = _from_start(table_lines(characters, longest=_LONGEST_ROW), name, blank=b"\n")
            yield from (_csv if kind == "csv" else _tsv)(lines, self._column, name)
            return
        count, line = 0, b""
        for line in _from_start(_lines(file), name):
            count += 1
            text, problem = _decoded(line)
            if text is None or kind == "text":
                yield text, problem
            else:
                yield _of_json(text, self._column)
        if count == 1 and b"\r" in line.rstrip(b"\r"):
            self._warn(f"{name}: all of it is one row, for it has carriage returns and no line feed between its lines")


def _shown(name: str) -> str:
    return "standard input" if name == "-" else name


def _zipped(path: PurePath) -> bool:
    return path.suffix.lower() == ".gz"


def form_of(path: PurePath) -> str:
    """Return which of ``FORMATS`` a file is, by its name."""
    suffix = path.with_suffix("").suffix if _zipped(path) else path.suffix
    return _SUFFIXES.get(suffix.lower(), "text")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    r"""Yields lines without their ends, ``\n`` or ``\r\n``; of one too long to hold, a byte more than may be held."""
    while line := file.readline(_LONGEST_ROW + len("\r\n")):
        if line.endswith(b"\n"):
            yield line[:-1].removesuffix(b"\r")
            continue
        if len(line) > _LONGEST_ROW:
            line = line[: _LONGEST_ROW + 1]
            while (rest := file.readline(_LONGEST_ROW)) and not rest.endswith(b"\n"):
                pass
        yield line


def _from_start(lines: Iterator[bytes], name: str, *, blank: bytes = b"") -> Iterator[bytes]:
    """The lines of a file, without the byte order mark in front of them.

    Raises:
        InputError: The mark is that of UTF-16, whose lines would be taken for text with a NUL beside each letter.
    """
    for first in lines:
        if first.startswith(_MARKS_OF_UTF_16):
            raise InputError(
                "the file is not UTF-8",
                where=name,
                found="the byte order mark of UTF-16",
                expected="UTF-8",
                remedy="convert it, for example: iconv -f UTF-16 -t UTF-8",
            )
        yield blank if first == _BYTE_ORDER_MARK else first.removeprefix(_BYTE_ORDER_MARK)
        yield from lines


def _decoded(data: bytes, *, name: str = "the line") -> tuple[str | None, str | None]:
    if len(data) > _LONGEST_ROW:
        return None, f"{name} is longer than {_LONGEST_ROW:,} bytes"
    try:
        return data.decode("utf-8"), None
    except UnicodeDecodeError as error:
        return None, f"not UTF-8: byte 0x{data[error.start]:02x} at byte {error.start + 1} of {name}"


def _of_json(line: str, column: str) -> tuple[str | None, str | None]:
    if not line.strip():
        return None, "the line is empty, not a JSON object"
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        return None, f"not JSON: {error}"
    if not isinstance(found, dict):
        return None, f"not a JSON object: {type(found).__name__}"
    if column not in found:
        return None, f"there is no {column!r}; the row has {_listed(found)}"
    return checked_text(found[column], column)


def checked_text(value: object, column: str) -> tuple[str | None, str | None]:
    """A cell's text, or ``None`` and what is wrong with it."""
    if not isinstance(value, str):
        return None, f"{column!r} is not text: {type(value).__name__}"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        half = ascii(value[error.start : error.end])
        return None, f"{column!r} is not Unicode text: half a surrogate pair, {half}, at character {error.start + 1}"
    return value, None


def _csv(lines: Iterator[bytes], column: str, name: str) -> Iterator[tuple[str | None, str | None]]:
    records = csv_records(lines, longest=_LONGEST_ROW)
    header = next(records, None)
    if header is None:
        return
    if isinstance(header, str):
        raise _no_header(name, header)
    place = _place(column, header, name)
    empty = True
    for record in records:
        empty = False
        yield (None, record) if isinstance(record, str) else _cell(record, place, header)
    if empty:
        yield _NO_ROWS


def _tsv(lines: Iterator[bytes], column: str, name: str) -> Iterator[tuple[str | None, str | None]]:
    header: list[str] = []
    place = None
    empty = True
    for line in lines:
        text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
        quoted = _quoted_cells(text)
        row = quoted or text.split("\t")
        if place is None:
            if not line:
                raise _no_header(name, TOO_LONG.format(_LONGEST_ROW))
            header, place = row, _place(column, row, name)
            continue
        empty = False
        if not line:
            yield None, TOO_LONG.format(_LONGEST_ROW)
        elif quoted is None and "\r" in text:
            yield None, "a carriage return stands inside the row"
        elif quoted is None and '"' in text and len(row) < len(header):
            yield None, "a quoted cell does not end in its line, as it may in CSV"
        else:
            yield _cell(row, place, header)
    if empty and place is not None:
        yield _NO_ROWS


def _quoted_cells(line: str) -> list[str] | None:
    # Quotes around a cell are those of pandas, R, spreadsheets and xlm score; others are somebody's raw text.
    if '"' not in line:
        return None
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_ROW))
    with suppress(csv.Error):
        return next(csv.reader([line], delimiter="\t", strict=True))
    return None


def _no_header(name: str, found: str) -> InputError:
    return InputError(
        "the header cannot be read",
        where=f"{name}, line 1",
        found=found,
        expected="the names of the columns",
        remedy="correct that line, or name the right --input-format",
    )


def _place(column: str, header: Sequence[str], name: str) -> int:
    """Where the column is among those of a header.

    Raises:
        InputError: It is not there, or more than once.
    """
    if header.count(column) != 1:
        raise InputError(
            "no such column" if column not in header else "several columns of that name",
            where=name,
            found=_listed(header),
            expected=repr(column),
            remedy="name the column that holds the text: --column NAME",
        )
    return header.index(column)


def _cell(row: list[str], place: int, header: Sequence[str]) -> tuple[str | None, str | None]:
    column = header[place]
    if place >= len(row):
        return None, f"the row ends before the column {column!r}: {len(row)} of {len(header)} columns"
    return _decoded(row[place].encode("utf-8", "surrogateescape"), name=f"the column {column!r}")


def _parquet(source: InputFile, column: str, open_files: ExitStack) -> Iterator[tuple[int, str | None, str | None]]:
    pyarrow, parquet = import_pyarrow()
    try:
        opened = open_files.enter_context(source.open_parquet())
        file = open_files.enter_context(parquet.ParquetFile(opened))
        names, total = file.schema_arrow.names, file.metadata.num_rows
        _place(column, names, source.name)
        if not total:
            yield 1, *_NO_ROWS
        for batch in file.iter_batches(batch_size=1024, columns=[column]):
            for value in batch.column(0):
                try:
                    yield total, *checked_text(value.as_py(), column)
                except UnicodeDecodeError as error:
                    yield total, None, f"{column!r} is not UTF-8: byte {error.start + 1}"
    except pyarrow.ArrowException as error:
        raise OSError(str(error)) from error


def _listed(names: Iterable[str]) -> str:
    shown = ", ".join(repr(name) for name in names)
    return ascii(shown[:200])[1:-1] if shown else "none"


def import_pyarrow() -> tuple[Any, Any]:
    """``pyarrow`` and ``pyarrow.parquet``.

    Raises:
        DependencyError: They are not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DependencyError(
            "Parquet needs pyarrow",
            where="pyarrow",
            found="not installed",
            remedy="pip install 'xlm[parquet]'",
        ) from error
    return pyarrow, pyarrow.parquet
