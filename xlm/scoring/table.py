"""Scores as rows of a table, and the table as TSV, JSON lines or Parquet."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xlm.corpus.formats import import_pyarrow
from xlm.corpus.rows import Row
from xlm.errors import InputError
from xlm.scoring.sentence import SentenceScore

UNITS = ("sentence", "word", "token")
"""What one row of output can be."""

TABLE_FORMATS = ("tsv", "jsonl", "parquet")

Cell = bool | int | float | str | None

_COLUMNS = {
    "sentence": ("tokens", "logprob", "unknown", "text"),
    "word": ("word", "start", "end", "tokens", "logprob", "unknown", "text"),
    "token": ("position", "id", "token", "logprob", "unknown"),
}
_TEXTS = frozenset(("file", "text", "token", "status"))
_NUMBERS = frozenset(("logprob", "bits", "entropy"))
_QUOTED = frozenset('"\t\n\r')  # characters that a cell of TSV holds between quotes only
_CONVERTED_AT_ONCE = 8_000_000  # bytes of lines; a few times as many are held


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Which columns the output has.

    Attributes:
        unit: One of ``UNITS``.
        form: One of ``TABLE_FORMATS``. Numbers have six decimals in the first two; Parquet holds them as they are.
            TSV quotes as RFC 4180 does, see ``tsv_line``.
        files: Whether a first column names the file.
        bits: Whether a column ``bits`` follows ``logprob``: the surprisal, ``-logprob / log 2``.
        ranks: Whether each token's rank follows.
        entropies: Whether the entropy of each token's prediction follows.
        columns: The columns in order; ``status`` is the last.

    Raises:
        InputError: No such unit, or ranks or entropies of anything but tokens.
        DependencyError: Parquet, and pyarrow is not installed.
    """

    unit: str
    form: str
    files: bool = False
    bits: bool = False
    ranks: bool = False
    entropies: bool = False
    columns: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise InputError("no such unit", where="by", found=repr(self.unit), expected=" or ".join(UNITS))
        if self.unit != "token" and (self.ranks or self.entropies):
            raise InputError("only tokens have ranks and entropies", where="unit", found=self.unit, expected="token")
        if self.form == "parquet":
            import_pyarrow()
        names = [*(["file"] if self.files else []), "line", *_COLUMNS[self.unit]]
        further = (("bits", self.bits), ("rank", self.ranks), ("entropy", self.entropies))
        place = names.index("logprob") + 1
        names[place:place] = [name for name, wanted in further if wanted]
        object.__setattr__(self, "columns", (*names, "status"))

    @property
    def header(self) -> str:
        """What stands before all rows, with its line end; nothing but for TSV."""
        return tsv_line(self.columns) if self.form == "tsv" else ""

    def lines(self, row: Row, result: SentenceScore | InputError | None) -> Iterator[str]:
        """The lines of one input row, with their ends; arguments as for ``cells``."""
        for cells in self.cells(row, result):
            yield self._line(cells)

    def cells(self, row: Row, result: SentenceScore | InputError | None) -> Iterator[dict[str, Cell]]:
        """What stands in the columns for one input row: once for sentences, once or more for words and tokens.

        Args:
            row: The input row.
            result: Its scores, or why it has none; ``None`` when the row itself has a problem.

        Yields:
            Cells by column; a column without one is empty, and there may be cells of no column.
        """
        shared: dict[str, Cell] = {"file": row.file, "line": row.number, "status": status_of(row, result)}
        cells = _cells(result, self.unit) if isinstance(result, SentenceScore) else [{"text": row.text}]
        for cell in cells:
            found = {**cell, **shared}
            logprob = cell.get("logprob")
            if self.bits and isinstance(logprob, float):
                found["bits"] = (0.0 - logprob) / math.log(2)
            yield found

    def _line(self, cells: Mapping[str, Cell]) -> str:
        values = [cells.get(name) for name in self.columns]
        if self.form == "tsv":
            return tsv_line(values)
        if self.form == "jsonl":
            values = [round(value, 6) if isinstance(value, float) else value for value in values]
        return json.dumps(dict(zip(self.columns, values, strict=True)), ensure_ascii=False, allow_nan=False) + "\n"

    def fields(self) -> list[tuple[str, Any]]:
        """Each column with its type of Arrow.

        Raises:
            DependencyError: pyarrow is not installed.
        """
        pyarrow, _ = import_pyarrow()
        kinds = {name: pyarrow.string() for name in _TEXTS} | {name: pyarrow.float64() for name in _NUMBERS}
        if self.unit != "sentence":  # which counts its unknown tokens
            kinds["unknown"] = pyarrow.bool_()
        return [(name, kinds.get(name, pyarrow.int64())) for name in self.columns]

    def to_parquet(self, lines: Path, target: Path, *, metadata: Mapping[str, str]) -> None:
        """Writes the lines that were made for Parquet as a Parquet file, some megabytes at a time.

        Args:
            lines: A file of what ``lines`` gave.
            target: The file to make.
            metadata: Stands in the file, beside the columns.

        Raises:
            DependencyError: pyarrow is not installed.
        """
        pyarrow, parquet = import_pyarrow()
        schema = pyarrow.schema(self.fields(), metadata=dict(metadata))
        with lines.open("rb") as source, parquet.ParquetWriter(target, schema) as writer:
            while lines_read := source.readlines(_CONVERTED_AT_ONCE):
                cells = [json.loads(line) for line in lines_read]
                writer.write_batch(pyarrow.RecordBatch.from_pylist(cells, schema=schema))


def status_of(row: Row, result: SentenceScore | InputError | None) -> str:
    """Return what the column ``status`` says of one input row; arguments as for ``Table.cells``."""
    if row.problem is not None:
        return f"error: {row.problem}"
    if isinstance(result, InputError):
        return f"error: {result.in_short}"
    assert result is not None
    if result.windows > 1:
        return f"long: {result.windows} windows"
    return "ok" if result.text.strip() else "empty"


def _cells(result: SentenceScore, unit: str) -> Sequence[dict[str, Any]]:
    if unit == "sentence":
        return [
            {
                "tokens": len(result.tokens),
                "logprob": result.logprob,
                "unknown": result.unknown,
                "text": result.text,
            }
        ]
    if unit == "word":
        words = [
            {
                "word": number,
                "start": word.start,
                "end": word.end,
                "tokens": word.tokens,
                "logprob": 0.0 - word.surprisal,
                "unknown": word.unknown,
                "text": word.text,
            }
            for number, word in enumerate(result.words, start=1)
        ]
        end = len(result.text)
        closing = {
            "word": len(words) + 1,
            "start": end,
            "end": end,
            "tokens": 1,
            "logprob": result.logprobs[-1],
            "unknown": result.unknowns[-1],
            "text": result.tokens[-1],
        }
        return [*words, closing]
    return token_cells(result)


def token_cells(result: SentenceScore) -> list[dict[str, Any]]:
    """Return what is known of each token of a text, by the names of columns."""
    columns: dict[str, Sequence[Any] | None] = {
        "position": range(1, len(result.tokens) + 1),
        "id": result.ids,
        "token": result.tokens,
        "logprob": result.logprobs,
        "rank": result.ranks,
        "entropy": result.entropies,
        "top": result.top,
        "unknown": result.unknowns,
    }
    known = {name: values for name, values in columns.items() if values is not None}
    return [dict(zip(known, cells, strict=True)) for cells in zip(*known.values(), strict=True)]


def tsv_line(cells: Iterable[Cell]) -> str:
    """Return one line of TSV, with its end, in the dialect that pandas, R and spreadsheets read by default.

    A cell that holds a quote, a tab or a line end stands between quotes, its own quotes doubled (RFC 4180, with tabs).
    Numbers have six decimals, a bool is 0 or 1, and ``None`` is empty.
    """
    return "\t".join(map(_tsv, cells)) + "\n"


def _tsv(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:.6f}"
    text = cell if isinstance(cell, str) else str(int(cell))
    return text if _QUOTED.isdisjoint(text) else '"' + text.replace('"', '""') + '"'
