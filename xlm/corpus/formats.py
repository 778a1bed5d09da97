"""Parsers of the input formats. A parser yields a ``Record`` for each row of a file.

A stray quote or a byte that is not UTF-8 affects only the row that contains it.

To add a format, add its name to ``FORMATS`` and its suffix to ``_SUFFIXES``, write a parser here, and call it in
``Corpus._parse`` (``rows.py``). The choices of ``--input-format`` are in ``xlm/cli/_options.py``.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import PurePath
from typing import Any, BinaryIO, TextIO

from xlm._io.dependencies import needing
from xlm.corpus.files import InputFile
from xlm.errors import InputError

FORMATS = ("text", "jsonl", "csv", "tsv", "parquet")

Parsed = tuple[str | None, str | None]
"""The text of a cell and ``None``, or ``None`` and a description of its problem."""

Record = tuple[str | None, str | None, dict[str, Any] | None]
"""A row: its text or ``None``, its problem or ``None``, and its cells by column if all of them are read and known.

The cells are JSON values: those of CSV and TSV are texts."""

_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
_LONGEST_ROW = 1 << 26
_LONGEST_QUOTE = 1 << 20
"""Maximum number of bytes in a CSV record after its first line; only quoted cells can continue on more lines."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_UTF_16 = re.compile(rb"([^\0]\0){2}|(\0[^\0]){2}")
_NO_ROWS: Record = (None, "the table has no rows", None)
_TOO_LONG = "the row is longer than {:,} bytes"


def is_gzip(path: PurePath) -> bool:
    """Return whether a file name ends in ``.gz``."""
    return path.suffix.lower() == ".gz"


def format_of(path: PurePath) -> str:
    """Return the format that the suffix of a file name stands for, one of ``FORMATS``; plain text by default."""
    suffix = path.with_suffix("").suffix if is_gzip(path) else path.suffix
    return _SUFFIXES.get(suffix.lower(), "text")


def parse_lines(
    file: BinaryIO, key: str | None, name: str, *, whole: bool = False, warn: Callable[[str], None]
) -> Iterator[Record]:
    """Yield the record of each line. Its text is the line itself, or the value of a key of the JSON object in the line.

    Args:
        file: A binary file.
        key: The key; ``None`` for plain text.
        whole: Whether records have all cells, which are the values of the object.
        name: Name of the file in errors and warnings.
        warn: Called at the end with a warning if the file is a single line that was probably meant to be many.

    Raises:
        InputError: The file is in UTF-16.
    """
    count, line = 0, b""
    for line in _without_mark(_lines(file), name):
        count += 1
        text, problem = _decode(line)
        yield (text, problem, None) if text is None or key is None else _parse_json(text, key, whole=whole)
    if count == 1 and b"\r" in line.rstrip(b"\r"):
        warn(f"{name}: the whole file is one row, because its lines end in carriage returns without line feeds")


def parse_table(
    file: BinaryIO, format: str, column: str, name: str, open_files: ExitStack, *, whole: bool = False
) -> Iterator[Record]:
    """Yield the record of each row of CSV or TSV.

    Args:
        file: A binary file.
        format: ``"csv"`` or ``"tsv"``.
        column: The column that holds the text.
        name: Name of the file in errors.
        open_files: Collects what must be closed; the caller closes it after the last row.
        whole: Whether records have all cells.

    Raises:
        InputError: The header cannot be read or lacks the column, or the file is in UTF-16.
    """
    # Bytes that are not UTF-8 become lone surrogates, so they affect one row only.
    characters = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
    open_files.callback(characters.detach)  # otherwise, deleting the wrapper would close standard input
    lines = _table_lines(characters, name)
    records = (_csv_records if format == "csv" else _tsv_records)(lines)
    header = next(records, None)
    if header is None:
        return
    if isinstance(header, str):
        raise InputError(
            "the header cannot be read",
            where=f"{name}, line 1",
            found=header,
            expected="the names of the columns",
            remedy="correct that line, or name the right --input-format",
        )
    index = _index_of(column, header, name)
    if whole:
        for other in header:
            _index_of(other, header, name)
    empty = True
    for record in records:
        empty = False
        if isinstance(record, str):
            yield None, record, None
        elif len(record) == len(header) and _is_readable("".join(record)):
            yield record[index], None, dict(zip(header, record, strict=True)) if whole else None
        else:
            yield _partial_record(record, index, header, whole=whole)
    if empty:
        yield _NO_ROWS


def parse_parquet(
    source: InputFile, column: str, open_files: ExitStack, *, whole: bool = False
) -> Iterator[tuple[int, Record]]:
    """Yield each record with the total number of rows; arguments and errors are as for ``parse_table``.

    Raises:
        OSError: The file cannot be read.
        DependencyError: pyarrow is not installed.
    """
    pyarrow, parquet = import_pyarrow()
    try:
        file = open_files.enter_context(parquet.ParquetFile(open_files.enter_context(source.open_parquet())))
        names, total = file.schema_arrow.names, file.metadata.num_rows
        _index_of(column, names, source.name)
        if not total:
            yield 1, _NO_ROWS
        for batch in file.iter_batches(batch_size=1024, columns=None if whole else [column]):
            for place, value in enumerate(batch.column(column)):
                text, problem = arrow_text(value, column)
                cells = None
                if whole:
                    try:
                        (values,) = batch.slice(place, 1).to_pylist()
                        cells = json.loads(json.dumps(values, default=str))  # dates and decimals become texts
                    except UnicodeDecodeError:
                        text, problem = None, problem or "a cell is not UTF-8"
                yield total, (text, problem, cells)
    except pyarrow.ArrowException as error:
        raise OSError(str(error)) from error


def import_pyarrow() -> tuple[Any, Any]:
    """Return ``pyarrow`` and ``pyarrow.parquet``.

    Raises:
        DependencyError: pyarrow is not installed.
    """
    with needing("Parquet needs pyarrow", where="pyarrow", install="'xlm[parquet]'"):
        import pyarrow
        import pyarrow.parquet
    return pyarrow, pyarrow.parquet


def checked_text(value: object, column: str) -> Parsed:
    """Return the text of a cell and ``None``, or ``None`` and a description of the cell's problem."""
    if not isinstance(value, str):
        return None, f"{column!r} is not text: {type(value).__name__}"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        half = ascii(value[error.start : error.end])
        return None, f"{column!r} is not Unicode text: half a surrogate pair, {half}, at character {error.start + 1}"
    return value, None


def arrow_text(value: Any, column: str) -> Parsed:
    """Return the text of an Arrow value and ``None``, or ``None`` and a description of the value's problem."""
    try:
        return checked_text(value.as_py(), column)
    except UnicodeDecodeError as error:
        return None, f"{column!r} is not UTF-8: byte {error.start + 1}"


def _lines(file: BinaryIO) -> Iterator[bytes]:
    r"""Yield lines without their ends, ``\n`` or ``\r\n``.

    A line of more than ``_LONGEST_ROW`` bytes is cut to ``_LONGEST_ROW + 1`` bytes, so that later checks still find
    that it is too long.
    """
    while line := file.readline(_LONGEST_ROW + len("\r\n")):
        if line.endswith(b"\n"):
            yield line[:-1].removesuffix(b"\r")
            continue
        if len(line) > _LONGEST_ROW:
            line = line[: _LONGEST_ROW + 1]
            while (rest := file.readline(_LONGEST_ROW)) and not rest.endswith(b"\n"):
                pass
        yield line


def _without_mark(lines: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Yield the lines of a file, dropping a byte order mark at its start.

    Args:
        lines: The lines of the file.
        name: Name of the file in errors.

    Raises:
        InputError: The file is in UTF-16, with or without a byte order mark.
    """
    for first in lines:
        _check_encoding(first, name)
        yield first.removeprefix(_BYTE_ORDER_MARK)
        yield from lines


def _check_encoding(line: bytes, name: str) -> None:
    """Raise ``InputError`` if the first line of a file is in UTF-16."""
    marked = line.startswith(_UTF_16_MARKS)
    if marked or _UTF_16.match(line):
        raise InputError(
            "not UTF-8 text",
            where=name,
            found="the byte order mark of UTF-16" if marked else "a NUL beside each letter, as in UTF-16",
            expected="UTF-8",
            remedy="convert the file, for example: iconv -f UTF-16 -t UTF-8",
        )


def _decode(data: bytes, *, name: str = "the line") -> Parsed:
    if len(data) > _LONGEST_ROW:
        return None, f"{name} is longer than {_LONGEST_ROW:,} bytes"
    try:
        return data.decode("utf-8"), None
    except UnicodeDecodeError as error:
        return None, f"not UTF-8: byte 0x{data[error.start]:02x} at byte {error.start + 1} of {name}"


def _parse_json(line: str, column: str, *, whole: bool) -> Record:
    if not line.strip():
        return None, "the line is empty, not a JSON object", None
    try:
        values = json.loads(line, object_pairs_hook=each_key_once)
    except KeyError as error:
        return None, f"the key {error} occurs twice", None
    except json.JSONDecodeError as error:
        return None, f"not JSON: {error.msg} at character {error.pos + 1}", None
    except (ValueError, RecursionError) as error:
        return None, f"not JSON: {error}", None
    if not isinstance(values, dict):
        return None, f"not a JSON object: {type(values).__name__}", None
    if column not in values:
        return None, f"there is no {column!r}; the row has {_listed(values)}", values if whole else None
    return (*checked_text(values[column], column), values if whole else None)


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of ``json.loads``, of which this is an ``object_pairs_hook``.

    Raises:
        KeyError: A key occurs twice; ``json.loads`` by itself would drop the first value.
    """
    values = dict(pairs)
    if len(values) < len(pairs):
        raise KeyError(next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1))
    return values


def _table_lines(file: TextIO, name: str) -> Iterator[str]:
    r"""Yield the lines of a table, each with its line end. A line that is too long is yielded as an empty text.

    The first line ends at a line feed or a carriage return, whichever comes first. If the first line ends at a carriage
    return without a line feed, both characters end lines in this file. Otherwise only line feeds end lines, because a
    carriage return inside a line is then most often part of a text.

    Args:
        file: A text file, opened with ``newline=""``.
        name: Name of the file in errors.

    Raises:
        InputError: The file is in UTF-16.
    """
    first = _table_line(file, ("\n", "\r"))
    if first is None:
        return
    _check_encoding(first.encode("utf-8", "surrogateescape"), name)
    yield "\n" if first == "\ufeff" else first.removeprefix("\ufeff")  # a mark alone is a line without text
    ends = ("\n", "\r") if first.endswith("\r") else ("\n",)
    while (line := _table_line(file, ends)) is not None:
        yield line


def _table_line(file: TextIO, ends: tuple[str, ...]) -> str | None:
    part = file.readline(_LONGEST_ROW + len("x\r\n"))
    if part.endswith(ends) and len(part) < _LONGEST_ROW:
        return part
    buffer = io.StringIO()  # readline returns a line in parts, each ending at a carriage return
    while part:
        if buffer.tell() <= _LONGEST_ROW:
            buffer.write(part)
        if part.endswith(ends):
            break
        part = file.readline(_LONGEST_ROW + len("x\r\n"))
    line = buffer.getvalue()
    if not line:
        return None
    return line if len(line.rstrip("\r\n")) <= _LONGEST_ROW else ""


def _csv_records(lines: Iterator[str]) -> Iterator[list[str] | str]:
    r"""Yield the cells of each record; for a line that is not a record, yield a description of its problem.

    A quoted cell may contain line ends, and up to about a megabyte after its first line. If the quote is not closed by
    then, or if anything but a comma or a line end follows the closing quote, the first line of the record is yielded as
    a problem and the lines after it are read again as separate records.

    Args:
        lines: The lines from ``_table_lines``. A problem is yielded for a line that was too long.
    """
    # The default limit of the csv module, 128 KiB, is too small for real texts. The new limit applies to the whole
    # process.
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_ROW))
    source = _RecordLines(lines)
    reader = csv.reader(source, strict=True)
    while True:
        try:
            for record in reader:
                source.taken.clear()
                yield record
            return
        except csv.Error as error:
            problem = _TOO_LONG.format(_LONGEST_ROW) if source.taken == [""] else _csv_problem(str(error))
            source.take_back()
            reader = csv.reader(source, strict=True)
            yield problem


def _csv_problem(error: str) -> str:
    """Return the problem that an error of Python's ``csv`` describes, without terms of that module."""
    if "unexpected end" in error:  # csv raises this when _RecordLines stops inside a quoted cell
        error = "a quote is not closed"
    elif error.startswith("new-line"):
        error = "a carriage return stands inside the row"
    return f"not CSV: {error}"


class _RecordLines:
    """Iterates over lines, and can put back those of the current record.

    Attributes:
        taken: The lines of the current record that have been read so far.
    """

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._waiting: deque[str] = deque()
        self.taken: list[str] = []
        self._further = 0  # characters of the record after its first line

    def take_back(self) -> None:
        """Put back all lines of the record except the first."""
        self._waiting.extendleft(reversed(self.taken[1:]))
        self.taken.clear()

    def __iter__(self) -> _RecordLines:
        return self

    def __next__(self) -> str:
        line = self._waiting.popleft() if self._waiting else next(self._lines)
        if self.taken:
            self._further += len(line)
        else:
            self._further = 0
        self.taken.append(line)
        if not line:
            raise csv.Error("the line is too long")
        if self._further > _LONGEST_QUOTE:
            raise csv.Error("unexpected end of the lines in which a quote may end")
        return line


def _tsv_records(lines: Iterator[str]) -> Iterator[list[str] | str]:
    """Yield the cells of each line from ``_table_lines``, or a description of the line's problem."""
    columns = 0
    for line in lines:
        text = line.rstrip("\r\n")
        quoted = _quoted_cells(text)
        cells = quoted or text.split("\t")
        if not line:
            yield _TOO_LONG.format(_LONGEST_ROW)
        elif quoted is None and "\r" in text:
            yield "a carriage return stands inside the row"
        elif quoted is None and '"' in text and len(cells) < columns:
            yield "a quoted cell continues on the next line, which only CSV allows"
        else:
            yield cells
        columns = columns or len(cells)


def _quoted_cells(line: str) -> list[str] | None:
    # pandas, R, spreadsheets and xlm score put quotes around a whole cell. Any other quote is part of the text.
    if '"' not in line:
        return None
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_ROW))
    with suppress(csv.Error):
        return next(csv.reader([line], delimiter="\t", strict=True))
    return None


def _index_of(column: str, header: Sequence[str], name: str) -> int:
    """Return the index of a column in a header.

    Raises:
        InputError: The header does not have the column, or has it more than once.
    """
    if header.count(column) != 1:
        remedy = "name the column that holds the text: --column NAME, or for one word a row --word-column NAME"
        if column in header:
            remedy = "rename all of them but one"
        elif len(header) == 1 and (marks := [mark for mark in ";,\t|" if column in header[0].split(mark)]):
            remedy = f"save the table with commas (CSV) or tabs (TSV) between its columns; this file has {marks[0]!r}"
        raise InputError(
            "no such column" if column not in header else "several columns of that name",
            where=name,
            found=_listed(header),
            expected=repr(column),
            remedy=remedy,
        )
    return header.index(column)


def _partial_record(row: list[str], index: int, header: Sequence[str], *, whole: bool) -> Record:
    """Return the record of a row that has too few or too many cells, or a cell that cannot be read."""
    column = header[index]
    if not any(row) and len(row) < len(header):
        return None, "the line is empty", None
    if any(row[len(header) :]):  # with too many cells that are not empty, it is unclear which belongs to which column
        return None, f"{len(row)} cells for {len(header)} columns: a cell that holds a delimiter needs quotes", None
    problem = (
        None if index < len(row) else f"the row ends before the column {column!r}: {len(row)} of {len(header)} columns"
    )
    cells: dict[str, Any] = {}
    for name, cell in itertools.zip_longest(header, row[: len(header)], fillvalue=""):
        if whole or name == column:
            cells[name], of_cell = _text_of_cell(cell, name)
            problem = problem or of_cell
    return (cells[column] if problem is None else None), problem, cells if whole else None


def _text_of_cell(cell: str, column: str) -> Parsed:
    return _decode(cell.encode("utf-8", "surrogateescape"), name=f"the column {column!r}")


def _is_readable(joined: str) -> bool:
    """Return whether the cells of a row have no bytes that are not UTF-8, and are not too long."""
    if len(joined) > _LONGEST_ROW // 4:  # a character has at most four bytes
        return False
    try:
        joined.encode()
    except UnicodeEncodeError:
        return False
    return True


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(ascii, names))[:200] or "none"
