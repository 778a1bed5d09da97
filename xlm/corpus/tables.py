"""Rows of a corpus to lines of a table: TSV or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from xlm.corpus.rows import Row

Cell = bool | int | float | str | None

_TEXT_OF: dict[type, Callable[[Any], str]] = {
    str: str,
    int: str,
    float: "{:.6f}".format,
    bool: lambda cell: str(int(cell)),
    type(None): lambda _: "",
}
_QUOTED = frozenset('"\t\n\r')  # characters that need quotes around a cell of TSV


class OutputLines(NamedTuple):
    """The output of a window of rows.

    Attributes:
        data: Lines of output, UTF-8.
        problems: Number of rows without a result.
        tokens: Number of predicted tokens.
        counts: Further numbers, by name: of the tokens that are ``<unk>``, or of results by what ended them.
        reasons: The rows without a result, with the reason, unless the lines state it.
    """

    data: bytes
    problems: int
    tokens: int
    counts: Mapping[str, int]
    reasons: Sequence[tuple[Row, str]] = ()


def table_line(columns: Iterable[str], cells: Mapping[str, Cell], *, format: str, exact: Collection[str] = ()) -> str:
    """Return one line of a table, with its end.

    Args:
        columns: Names of the columns, in order.
        cells: Cells by column; a missing one is ``None``.
        format: ``"tsv"``, ``"jsonl"`` with floats of six decimals, or another name for JSON with all digits.
        exact: Columns whose floats have all digits.
    """
    if format == "tsv":
        return tsv_line(map(cells.get, columns))
    row = {name: cells.get(name) for name in columns}
    if format == "jsonl":
        for name, value in row.items():
            if type(value) is float and name not in exact:
                row[name] = round(value, 6)
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def tsv_line(cells: Iterable[Cell]) -> str:
    """Return one line of TSV, with its end, in the dialect that pandas, R and spreadsheets read by default.

    A cell that holds a quote, a tab or a line end is quoted, with its own quotes doubled (RFC 4180, with tabs). Floats
    have six decimals, a bool is 0 or 1, and ``None`` is empty.
    """
    texts = [_TEXT_OF.get(type(cell), str)(cell) for cell in cells]
    line = "\t".join(texts)
    if line.count("\t") >= len(texts) or '"' in line or "\n" in line or "\r" in line:
        line = "\t".join(map(_quoted, texts))
    return line + "\n"


def _quoted(text: str) -> str:
    return text if _QUOTED.isdisjoint(text) else '"' + text.replace('"', '""') + '"'
