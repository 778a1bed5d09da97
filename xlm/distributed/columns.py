"""Columns of an Arrow table: texts out of one, results into others, beside all that the table had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xlm._io.arguments import shown
from xlm.corpus.formats import checked_text, import_pyarrow
from xlm.errors import InputError


def column_of(table: Any, name: str) -> Any:
    """A column of a batch.

    Args:
        table: A ``pyarrow.Table``.
        name: The column's.

    Raises:
        InputError: No ``pyarrow.Table``, or it has no such column, or several.
    """
    pyarrow, _ = import_pyarrow()
    if not isinstance(table, pyarrow.Table):
        raise InputError(
            "the batch is no Arrow table",
            where="map_batches",
            found=type(table).__name__,
            expected="pyarrow.Table",
            remedy='map_batches(..., batch_format="pyarrow")',
        )
    if not isinstance(name, str) or table.column_names.count(name) != 1:
        raise InputError(
            "no such column, or several of that name",
            where="column",
            found=", ".join(map(repr, table.column_names)),
            expected=shown(name),
        )
    return table.column(name)


def texts_of(table: Any, name: str) -> list[tuple[str | None, str | None]]:
    """Each row's text, or ``None`` and what is wrong with it; arguments and errors as for ``column_of``."""
    return [_text(value, name) for value in column_of(table, name)]


def _text(value: Any, name: str) -> tuple[str | None, str | None]:
    try:
        return checked_text(value.as_py(), name)
    except UnicodeDecodeError as error:
        return None, f"{name!r} is not UTF-8: byte {error.start + 1}"


def check_free(table: Any, fields: Sequence[tuple[str, Any]]) -> None:
    """Sees to it that columns can be added.

    Args:
        table: A ``pyarrow.Table``.
        fields: As for ``with_columns``.

    Raises:
        InputError: The table has a column of one of these names.
    """
    taken = [name for name, _ in fields if name in table.column_names]
    if taken:
        raise InputError(
            "the dataset has a column of a name that the result needs",
            where="columns",
            found=", ".join(map(repr, taken)),
            remedy="rename it: Dataset.rename_columns",
        )


def with_columns(table: Any, results: Sequence[Sequence[Mapping[str, Any]]], fields: Sequence[tuple[str, Any]]) -> Any:
    """The table with further columns, each of its rows once for each result that it has.

    Args:
        table: A ``pyarrow.Table`` of R rows, none of whose columns has a name of the new ones.
        results: R lists of cells by column; what is missing is null.
        fields: The new columns in order, each with its type of Arrow.
    """
    pyarrow, _ = import_pyarrow()
    if any(len(cells) != 1 for cells in results):
        table = table.take([row for row, cells in enumerate(results) for _ in cells])
    for name, kind in fields:
        column = pyarrow.array([each.get(name) for cells in results for each in cells], type=kind)
        table = table.append_column(name, column)
    return table
