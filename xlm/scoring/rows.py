"""Rows of text out of files of several formats: one at a time, and none is dropped, whatever is wrong with it."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from xlm.errors import DependencyError, InputError
from xlm.scoring.csv_records import csv_records
from xlm.scoring.input_files import STDIN, InputFile, LocalFile

FORMATS = ("text", "jsonl", "csv", "tsv", "parquet")
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
_LONGEST_ROW = 1 << 26
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


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

    A file that ends in ``.gz`` is decompressed. Text is split at line feeds only; JSON lines are one object a line;
    CSV has a header and may quote, and a quoted cell may hold line ends (see ``csv_records``); TSV has a header and may
    quote, a quote that does not enclose a cell of its line being part of the text; Parquet needs pyarrow. All text is
    UTF-8; a byte order mark at the start of a file is dropped. Each iteration reads the files anew, standard input only
    once.

    Args:
        files: Paths, of which ``-`` is standard input, or files that are elsewhere.
        form: One of ``FORMATS``; ``None`` goes by each file's name, text where that says nothing.
        column: Which column (or key) holds the text; ``None`` means ``text``.

    Raises:
        InputError: A column of plain text, or a Parquet file on standard input or compressed.
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
        self._forms = [form or _form_of(file.path) for file in self._files]
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

    @property
    def sizes(self) -> list[tuple[str, int]]:
        """Each file's name and its bytes; 0 for standard input and for a file that is gone."""
        return [(file.name, file.size()) for file in self._files]

    def bytes_read(self) -> int:
        """How far the files are read, in bytes on disk; for Parquet by its share of rows."""
        return self._done + (self._at() if self._at is not None else 0)

    def close(self) -> None:
        """Closes the file that is being read, for who does not take all rows."""
        self._open.close()

    def __iter__(self) -> Iterator[Row]:
        self.damaged.clear()
        self._done, self._at = 0, None
        for file, kind in zip(self._files, self._forms, strict=True):
            name, number, problem = file.name, 0, None
            try:
                for number, (text, wrong) in enumerate(self._texts(file, kind), start=1):
                    yield Row(file=name, number=number, text=text, problem=wrong)
            except FileNotFoundError:
                problem = "the file is gone"
            except (EOFError, zlib.error, OSError) as error:
                # What a cut or damaged file or a failing disk raises on the way.
                problem = f"the file is damaged from here on: {error}"
            self._at = None
            self._done += file.size()
            if problem is not None:
                self.damaged.append(name)
                yield Row(file=name, number=number + 1, problem=problem)

    def _texts(self, file: InputFile, kind: str) -> Iterator[tuple[str | None, str | None]]:
        with ExitStack() as self._open:
            if kind == "parquet":
                yield from self._of_parquet(file)
                return
            opened = self._open.enter_context(file.open())
            self._at = opened.tell if file.size() else None  # a pipe has no place
            if _zipped(file.path):
                unzipped = self._open.enter_context(gzip.GzipFile(fileobj=opened))
                buffered = self._open.enter_context(io.BufferedReader(unzipped))
                yield from self._parsed(buffered, kind)
            else:
                yield from self._parsed(opened, kind)

    def _of_parquet(self, file: InputFile) -> Iterator[tuple[str | None, str | None]]:
        size, share = file.size(), 0.0
        self._at = lambda: int(size * share)
        for done, (total, text, problem) in enumerate(_parquet(file, self._column, self._open), start=1):
            share = done / total
            yield text, problem

    def _parsed(self, file: BinaryIO | io.BufferedReader, kind: str) -> Iterator[tuple[str | None, str | None]]:
        lines = _lines(file)
        if kind == "csv":
            yield from _csv(lines, self._column)
        elif kind == "tsv":
            yield from _tsv(lines, self._column)
        else:
            for line in lines:
                text, problem = _decoded(line)
                if text is None or kind == "text":
                    yield text, problem
                else:
                    yield _of_json(text, self._column)


def _zipped(path: PurePath) -> bool:
    return path.suffix.lower() == ".gz"


def _form_of(path: PurePath) -> str:
    suffix = path.with_suffix("").suffix if _zipped(path) else path.suffix
    return _SUFFIXES.get(suffix.lower(), "text")


def _lines(file: BinaryIO | io.BufferedReader) -> Iterator[bytes]:
    r"""Yields lines without their ``\n``; of a line too long to hold, one byte more than may be held."""
    first = True
    while line := file.readline(_LONGEST_ROW + 2):
        if not line.endswith(b"\n") and len(line) > _LONGEST_ROW:
            line = line[: _LONGEST_ROW + 1]
            while (rest := file.readline(_LONGEST_ROW)) and not rest.endswith(b"\n"):
                pass
        yield line.removeprefix(_BYTE_ORDER_MARK if first else b"").removesuffix(b"\n")
        first = False


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


def _csv(lines: Iterator[bytes], column: str) -> Iterator[tuple[str | None, str | None]]:
    records = csv_records(lines, longest=_LONGEST_ROW)
    header = next(records, None)
    for record in records:
        if isinstance(header, str):
            yield None, f"the header is not CSV: {header.removeprefix('not CSV: ')}"
        elif isinstance(record, str):
            yield None, record
        else:
            yield _cell(record, header or [], column)


def _tsv(lines: Iterator[bytes], column: str) -> Iterator[tuple[str | None, str | None]]:
    header: list[str] | None = None
    for line in lines:
        row = _tsv_cells(line.decode("utf-8", "surrogateescape").removesuffix("\r"))
        if header is None:
            header = row
        elif len(line) > _LONGEST_ROW:
            yield None, f"the row is longer than {_LONGEST_ROW:,} bytes"
        else:
            yield _cell(row, header, column)


def _tsv_cells(line: str) -> list[str]:
    # Quotes around a cell are those of pandas, R, spreadsheets and xlm score; others are somebody's raw text.
    if '"' in line and len(line) <= _LONGEST_ROW:
        csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_ROW))
        with suppress(csv.Error):
            return next(csv.reader([line], delimiter="\t", strict=True))
    return line.split("\t")


def _cell(row: list[str], header: list[str], column: str) -> tuple[str | None, str | None]:
    if column not in header:
        return None, f"there is no column {column!r}; the file has {_listed(header)}"
    place = header.index(column)
    if place >= len(row):
        return None, f"the row ends before the column {column!r}: {len(row)} of {len(header)} columns"
    return _decoded(row[place].encode("utf-8", "surrogateescape"), name=f"the column {column!r}")


def _parquet(source: InputFile, column: str, open_files: ExitStack) -> Iterator[tuple[int, str | None, str | None]]:
    pyarrow, parquet = import_pyarrow()
    try:
        opened = open_files.enter_context(source.open_parquet())
        file = open_files.enter_context(parquet.ParquetFile(opened))
        names, total = file.schema_arrow.names, file.metadata.num_rows
        if column not in names:
            for _ in range(total):
                yield total, None, f"there is no column {column!r}; the file has {_listed(names)}"
            return
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
