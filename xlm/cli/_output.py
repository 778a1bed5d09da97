"""What the commands write: lines, tables and signatures."""

from __future__ import annotations

import json
import math
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from xlm.corpus.tables import Cell

_GAP = "  "  # between aligned columns
_LEAST_WIDTH = 8  # smallest width of a column of text on a narrow terminal


def write_text(text: str | bytes) -> None:
    """Write to standard output, in UTF-8 whatever the locale, and flush."""
    click.echo(text.encode("utf-8") if isinstance(text, str) else text, nl=False)


def write_json(cells: Mapping[str, object]) -> None:
    """Write one JSON object as a line."""
    write_text(json.dumps(cells, ensure_ascii=False, allow_nan=False) + "\n")


def printable(text: object) -> str:
    """Return a text with escapes for lone surrogates, which file names that are not UTF-8 contain."""
    return str(text).encode("utf-8", "backslashreplace").decode()


def show_signature(signature: object, *, unknown: int | None = None) -> None:
    """Write the signature of a run to standard error.

    Args:
        signature: Signature of model, tokenizer and options.
        unknown: Number of scored tokens that are ``<unk>``; ``None`` if nothing was scored.
    """
    count = "" if unknown is None else f"|unknown:{unknown}"
    click.echo(f"signature: {signature}{count}", err=True)


def show_stops(stops: Mapping[str, int], *, inputs: str) -> None:
    """Write to standard error how many continuations or translations were stopped by what.

    Args:
        stops: Number of results by the reason for their end.
        inputs: Name of what there is none of if there are no results.
    """
    counts = ", ".join(f"{count} at {stop}" for stop, count in sorted(stops.items(), key=lambda item: -item[1]))
    click.echo(f"stopped: {counts}" if counts else f"there are no {inputs}", err=True)


def counted(number: int, noun: str) -> str:
    """Return a number and what it counts, such as ``1 row`` or ``2,000 rows``.

    Args:
        number: The number.
        noun: What it counts, in the singular. The plural adds ``s``, or ``es`` after ``s``.
    """
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


class TableWriter:
    """Table on standard output: TSV, JSON lines, plain lines or, by default on a terminal, aligned columns.

    Rows are aligned in blocks, as they arrive, so memory stays bounded by a block. A column never becomes narrower in
    a later block. Texts are cut where a line would exceed the width of the terminal; numbers are never cut.

    Args:
        format: ``tsv``, ``jsonl`` or ``text``; ``None`` for aligned columns on a terminal, else ``default``.
        default: Format without a terminal.

    Attributes:
        aligned: Whether columns are aligned.
        format: Format of the lines that ``write_lines`` takes: ``jsonl`` if columns are aligned.
    """

    def __init__(self, *, format: str | None, default: str = "tsv") -> None:
        self.aligned = format is None and sys.stdout.isatty()
        self.format = "jsonl" if self.aligned else format or default
        self._columns: dict[str, type] = {}
        self._widths: list[int] = []

    def start(self, columns: Mapping[str, type]) -> None:
        """Set the columns and the types of their cells, and write the header (if aligned, with the first rows).

        Args:
            columns: ``str``, ``int``, ``float`` or ``bool`` by column.
        """
        from xlm.corpus.tables import tsv_line

        self._columns = dict(columns)
        if self.format == "tsv":
            write_text(tsv_line(columns))

    def write_lines(self, lines: bytes) -> None:
        """Write the lines of a ``ScoreTable`` that has the same columns and format as this writer."""
        if self.aligned:
            self._align([list(json.loads(line).values()) for line in lines.splitlines()])
        else:
            write_text(lines)

    def write_rows(self, rows: Iterable[Sequence[Cell]]) -> None:
        """Write rows of cells. In JSON, floats have all digits, and an infinite float is null."""
        from xlm.corpus.tables import tsv_line

        if self.aligned:
            self._align(rows)
            return
        for row in rows:
            if self.format == "tsv":
                write_text(tsv_line(row))
            else:
                finite = [None if isinstance(cell, float) and not math.isfinite(cell) else cell for cell in row]
                write_json(dict(zip(self._columns, finite, strict=True)))

    def _align(self, rows: Iterable[Sequence[Cell]]) -> None:
        terminal = shutil.get_terminal_size().columns
        is_text = [kind is str for kind in self._columns.values()]
        lines = [[_cut(_shown(*each), terminal) for each in zip(row, is_text, strict=True)] for row in rows]
        if not lines:
            return
        if not self._widths:
            lines.insert(0, list(self._columns))
        block = [max(map(_width, cells)) for cells in zip(*lines, strict=True)]
        self._widths = list(map(max, block, self._widths or block))
        widths = _fit(self._widths, is_text, terminal)
        for line in lines:
            cells = map(_aligned, line, widths, is_text)
            write_text(_GAP.join(cells).rstrip() + "\n")


def _shown(cell: Any, is_text: bool) -> str:
    """Return a cell as a terminal can show it, with escapes for control characters.

    Args:
        cell: The cell.
        is_text: Whether it is of a column of texts; it may still be another value, from a column that is kept.
    """
    if cell is None:
        return ""
    if is_text and not isinstance(cell, str):
        cell = json.dumps(cell, ensure_ascii=False)
    if isinstance(cell, float):
        return f"{cell:.6f}"
    text = cell if isinstance(cell, str) else str(int(cell))
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _width(text: str) -> int:
    """Return the number of columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _cut(text: str, width: int) -> str:
    """Return a text shortened to fit a width, with an ellipsis in place of what is cut off."""
    text, cut = text[: 2 * width], len(text) > 2 * width  # enough, as zero-width characters are rare
    if not cut and _width(text) <= width:
        return text
    while _width(text) > width - 1:
        text = text[:-1]
    return f"{text}…"


def _fit(widths: Sequence[int], is_text: Sequence[bool], terminal: int) -> list[int]:
    """Return widths of columns that fit a terminal, by narrowing the widest columns of text."""
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - terminal
    fitted = list(widths)
    while excess > 0:
        widest = max((index for index, text in enumerate(is_text) if text), key=fitted.__getitem__, default=None)
        if widest is None or fitted[widest] <= _LEAST_WIDTH:
            break
        fitted[widest] -= 1
        excess -= 1
    return fitted


def _aligned(cell: str, width: int, is_text: bool) -> str:
    text = _cut(cell, width)
    padding = " " * (width - _width(text))
    return text + padding if is_text else padding + text


def clock(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds, such as ``0:01:30``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
