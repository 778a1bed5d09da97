"""Scores as rows of a table, and the table as TSV, JSON lines or Parquet."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xlm.errors import InputError
from xlm.scoring.rows import Row, import_pyarrow
from xlm.scoring.sentence import SentenceScore

UNITS = ("sentence", "word", "token")
"""What one row of output can be."""

TABLE_FORMATS = ("tsv", "jsonl", "parquet")

Cell = int | float | str | None

_COLUMNS = {
    "sentence": ("tokens", "logprob", "text"),
    "word": ("word", "start", "end", "tokens", "logprob", "text"),
    "token": ("position", "id", "token", "logprob"),
}
_TEXTS = frozenset(("file", "text", "token", "status"))
_NUMBERS = frozenset(("logprob", "bits", "entropy"))
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_CONVERTED_AT_ONCE = 8_000_000  # bytes of lines; a few times as many are held


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Which columns the output has.

    Attributes:
        unit: One of ``UNITS``.
        form: One of ``TABLE_FORMATS``. Numbers have six decimals in the first two; Parquet holds them as they are.
        files: Whether a first column names the file.
        bits: Whether a column ``bits`` follows ``logprob``: the surprisal, ``-logprob / log 2``.
        ranks: Whether each token's rank follows.
        entropies: Whether the entropy of each token's prediction follows.
        columns: The columns in order; ``status`` is the last.

    Raises:
        InputError: Ranks or entropies of anything but tokens.
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
        return "\t".join(self.columns) + "\n" if self.form == "tsv" else ""

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
        shared: dict[str, Cell] = {"file": row.file, "line": row.number, "status": _status(row, result)}
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
            return "\t".join(map(_tsv, values)) + "\n"
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


def _status(row: Row, result: SentenceScore | InputError | None) -> str:
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
        return [{"tokens": len(result.tokens), "logprob": result.logprob, "text": result.text}]
    if unit == "word":
        words = [
            {
                "word": number,
                "start": word.start,
                "end": word.end,
                "tokens": word.tokens,
                "logprob": 0.0 - word.surprisal,
                "text": word.text,
            }
            for number, word in enumerate(result.words, start=1)
        ]
        end = len(result.text)
        closing = {"word": len(words) + 1, "start": end, "end": end, "tokens": 1, "logprob": result.logprobs[-1]}
        return [*words, {**closing, "text": result.tokens[-1]}]
    n = len(result.tokens)
    columns = zip(
        result.ids,
        result.tokens,
        result.logprobs,
        result.ranks or [None] * n,
        result.entropies or [None] * n,
        strict=True,
    )
    return [
        {"position": position, "id": index, "token": token, "logprob": logprob, "rank": rank, "entropy": entropy}
        for position, (index, token, logprob, rank, entropy) in enumerate(columns, start=1)
    ]


def _tsv(cell: Cell) -> str:
    if cell is None:
        return ""
    return f"{cell:.6f}" if isinstance(cell, float) else str(cell).translate(_ESCAPES)
