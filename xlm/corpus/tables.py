"""Tables out: rows of cells as TSV, JSON lines or Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlm.corpus.formats import import_pyarrow

TABLE_FORMATS = ("tsv", "jsonl", "parquet")

Cell = bool | int | float | str | None

_QUOTED = frozenset('"\t\n\r')  # characters that a cell of TSV holds between quotes only
_CONVERTED_AT_ONCE = 8_000_000  # bytes of lines; a few times as many are held


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A format of output, and the columns with their types.

    Attributes:
        columns: Type of the cells by column, in order: ``str``, ``int``, ``float`` or ``bool``. Any cell can be empty.
        format: One of ``TABLE_FORMATS``. Floats have six decimals in the first two; Parquet holds them as they are.
            TSV quotes as RFC 4180 does, see ``tsv_line``.

    Raises:
        DependencyError: Parquet, and pyarrow is not installed.
    """

    columns: Mapping[str, type]
    format: str

    def __post_init__(self) -> None:
        if self.format == "parquet":
            import_pyarrow()

    @property
    def header(self) -> str:
        """The line in front of all rows, with its end; empty for formats without one."""
        return tsv_line(self.columns) if self.format == "tsv" else ""

    def line(self, cells: Mapping[str, Cell]) -> str:
        """Return one row, with its line end; for Parquet, a line that ``write_parquet`` takes.

        Args:
            cells: Cells by column; a column without one is empty, and cells of no column are left out.
        """
        values = [cells.get(name) for name in self.columns]
        if self.format == "tsv":
            return tsv_line(values)
        if self.format == "jsonl":
            values = [round(value, 6) if isinstance(value, float) else value for value in values]
        return json.dumps(dict(zip(self.columns, values, strict=True)), ensure_ascii=False, allow_nan=False) + "\n"

    def arrow_fields(self) -> list[tuple[str, Any]]:
        """Return each column with its Arrow type.

        Raises:
            DependencyError: pyarrow is not installed.
        """
        pyarrow, _ = import_pyarrow()
        types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
        return [(name, types[kind]) for name, kind in self.columns.items()]

    def write_parquet(self, lines: Path, target: Path, *, metadata: Mapping[str, str]) -> None:
        """Write lines as a Parquet file, some megabytes at a time.

        Args:
            lines: A file of what ``line`` returned.
            target: The file to make.
            metadata: Stands in the file, beside the columns.

        Raises:
            DependencyError: pyarrow is not installed.
        """
        pyarrow, parquet = import_pyarrow()
        schema = pyarrow.schema(self.arrow_fields(), metadata=dict(metadata))
        with lines.open("rb") as source, parquet.ParquetWriter(target, schema) as writer:
            while lines_read := source.readlines(_CONVERTED_AT_ONCE):
                cells = [json.loads(line) for line in lines_read]
                writer.write_batch(pyarrow.RecordBatch.from_pylist(cells, schema=schema))


def tsv_line(cells: Iterable[Cell]) -> str:
    """Return one line of TSV, with its end, in the dialect that pandas, R and spreadsheets read by default.

    A cell that holds a quote, a tab or a line end stands between quotes, its own quotes doubled (RFC 4180, with tabs).
    Floats have six decimals, a bool is 0 or 1, and ``None`` is empty.
    """
    return "\t".join(map(_tsv_cell, cells)) + "\n"


def _tsv_cell(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:.6f}"
    text = cell if isinstance(cell, str) else str(int(cell))
    return text if _QUOTED.isdisjoint(text) else '"' + text.replace('"', '""') + '"'
