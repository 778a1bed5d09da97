"""Turn rows of a corpus into rows of a table of scores: TSV, JSON lines or Parquet."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xlm._io.arguments import check_choice
from xlm.corpus.formats import import_pyarrow
from xlm.corpus.rows import Row
from xlm.corpus.tables import OutputLines, table_line, tsv_line
from xlm.errors import InputError, XLMError, warn_caller
from xlm.scoring.layout import Cells, Layout, TextScore
from xlm.scoring.scorer import Scorer, SentenceScore

UNITS = ("sentence", "word", "token")
"""The units that one row of output can stand for."""

TABLE_FORMATS = ("tsv", "jsonl", "parquet")

_COLUMNS: dict[str, dict[str, type]] = {
    "sentence": {"tokens": int, "logprob": float, "unknown": int, "text": str},
    "word": {"word": int, "start": int, "end": int, "tokens": int, "logprob": float, "unknown": bool, "text": str},
    "token": {"position": int, "id": int, "token": str, "logprob": float, "unknown": bool},
}
_WORD: dict[str, type] = {"start": int, "end": int, "tokens": int, "surprisal": float}
_FURTHER_COLUMNS: dict[str, dict[str, type]] = {
    "sentence": {"tokens": int, "surprisal": float, "unknown": int},
    "word": {"word_number": int, "word": str, **_WORD, "surprisal_without_punctuation": float, "unknown": bool},
    "given word": {"word_number": int, **_WORD, "surprisal_without_punctuation": float, "unknown": bool},
    "region": {"region_number": int, **_WORD, "unknown": bool},
    "token": {"position": int, "id": int, "token": str, "surprisal": float, "unknown": bool},
}
"""Columns of tables that keep the columns of the input."""
_OPTIONAL: dict[str, dict[str, type]] = {
    "ranks": {"rank": int},
    "entropies": {"entropy": float, "entropy_reduction": float},
    "top": {"top": str},
}
"""Columns of each option, which follow ``logprob`` or ``surprisal``. A token has no ``entropy_reduction``."""
NATS = {"nats": 1.0, "bits": math.log(2)}
"""The units of log-probabilities, surprisals and entropies, in nats."""
_LOGARITHMS = ("logprob", "surprisal", "surprisal_without_punctuation", "entropy", "entropy_reduction")
"""Columns with numbers in these units; ``top`` holds some, too."""
_CONVERTED_BYTES = 8_000_000  # bytes of lines that are converted at once; they take several times as much memory


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreTable:
    """The table that ``xlm score`` writes.

    Attributes:
        unit: One of ``UNITS``; with kept columns also ``given word`` or ``region``.
        format: One of ``TABLE_FORMATS``. Floats have six decimals in TSV and JSON lines, and all digits in Parquet. TSV
            is quoted as in ``tsv_line``.
        files: Whether the first column names the file.
        sentences: Whether there is a column with the number of the sentence in its row; a sentence then also has
            ``start`` and ``end``.
        log_unit: Unit of all log-probabilities, surprisals and entropies, one of ``NATS``.
        ranks: Whether there is a column with the rank of each token, or of the first one of each word.
        entropies: Whether there is a column with the entropy of each token's prediction; for words, that of the first
            token, and a column ``entropy_reduction``.
        top: Whether there is a column with the most likely tokens at the place of each token, or of the first one of
            each word.
        kept: Columns of the input that the table repeats; the others then have the names of ``_FURTHER_COLUMNS``.
            ``None`` for a table of texts without further columns. In JSON lines and Parquet, numbers of the input stay
            numbers.
        columns: Types of the cells by column, in order; ``status`` is the last. Kept columns have the type str.

    Raises:
        InputError: There is no such unit, a kept column has the name of another one, or ranks, entropies or the most
            likely tokens are requested for sentences.
        DependencyError: The format is Parquet, and pyarrow is not installed.
    """

    unit: str
    format: str
    files: bool = False
    sentences: bool = False
    log_unit: str = "nats"
    ranks: bool = False
    entropies: bool = False
    top: bool = False
    kept: tuple[str, ...] | None = None
    columns: Mapping[str, type] = field(init=False)

    def __post_init__(self) -> None:
        units = UNITS if self.kept is None else tuple(_FURTHER_COLUMNS)
        check_unit(self.unit, [name for name in ("ranks", "entropies", "top") if getattr(self, name)], units=units)
        check_choice("unit", tuple(NATS), unit=self.log_unit)
        if self.format == "parquet":
            import_pyarrow()
        columns: dict[str, type] = {"sentence": int} if self.sentences else {}
        if self.sentences and self.unit == "sentence":
            columns |= {"start": int, "end": int}
        for name, cell_type in (_COLUMNS if self.kept is None else _FURTHER_COLUMNS)[self.unit].items():
            columns[name] = cell_type
            if name == ("logprob" if self.kept is None else "surprisal"):
                for option, further in _OPTIONAL.items():
                    if getattr(self, option):
                        columns |= further
        if self.unit == "token":
            columns.pop("entropy_reduction", None)
        columns["status"] = str
        before: dict[str, type] = {"file": str, "line": int} if self.files else {"line": int}
        if taken := [name for name in self.kept or () if name in before or name in columns]:
            raise InputError(
                "the input has columns with the names of new ones",
                where="the columns of the input",
                found=", ".join(taken),
                remedy="rename them",
            )
        object.__setattr__(self, "columns", {**before, **dict.fromkeys(self.kept or (), str), **columns})

    @property
    def header(self) -> str:
        """The header line, with its line end; empty for formats without a header."""
        return tsv_line(self.columns) if self.format == "tsv" else ""

    def line(self, cells: Mapping[str, Any]) -> str:
        """Return one line of output, with its end; a missing cell is empty. For Parquet, ``write_parquet`` reads it."""
        if cells.get("top") is not None and self.top:
            cells = {**cells, "top": self.top_cell(cells["top"])}
        return table_line(self.columns, cells, format=self.format, exact=self.kept or ())

    def top_cell(self, top: Iterable[tuple[str, float]]) -> Any:
        """Return the most likely tokens and their log-probabilities as they are written: as JSON, with six decimals."""
        pairs = [[token, round(logprob, 6)] for token, logprob in top]
        return pairs if self.format == "jsonl" else json.dumps(pairs, ensure_ascii=False)

    def cells_of(self, result: SentenceScore) -> list[Cells]:
        """Return the scores in each row of output of a text, by column; the table has some of these columns.

        The unit ``word`` gives a row for each word and one for the closing ``</s>``.
        """
        if self.unit == "token":
            return token_cells(result)
        if self.unit == "region":
            return [{"region_number": number, **each._asdict()} for number, each in enumerate(result.regions, start=1)]
        if self.unit == "sentence":
            logprob = result.logprob
            sums = {"tokens": len(result.tokens), "logprob": logprob, "surprisal": 0.0 - logprob}
            return [{**sums, "unknown": result.unknown, "text": result.text}]
        words = [word._asdict() for word in result.words]
        if result.closing:
            words.append(_closing_cells(result))
        for number, cells in enumerate(words, start=1):
            cells["word_number"] = number
            cells["word"] = number if self.kept is None else cells["text"]
            cells["logprob"] = 0.0 - cells["surprisal"]
        return words

    def rows(self, text: TextScore) -> Iterator[tuple[Row, Cells]]:
        """Yield each row of output of a text, with all of its cells but the kept ones, and its input row."""
        status = status_of(text.result)
        for row, cells in text.rows:
            if not cells and self.kept is None:
                cells["text"] = row.text
            if self.log_unit != "nats":
                self._convert(cells)
            if self.files:
                cells["file"] = row.file
            cells["line"] = row.number
            cells["status"] = status if row.problem is None else f"error: {row.problem}"
            yield row, cells

    def kept_cells(self, row: Row) -> dict[str, Any]:
        """Return the kept cells of a row of the input as they are written."""
        if not self.kept or row.cells is None:
            return {}
        kept = {name: row.cells.get(name) for name in self.kept}
        written = _as_text if self.format == "tsv" else _as_json if self.format == "jsonl" else _as_scalar
        for name, cell in kept.items():
            if type(cell) is not str and cell is not None:
                kept[name] = written(cell)
        return kept

    def _convert(self, cells: Cells) -> None:
        """Convert scores from nats to the table's unit."""
        nats = NATS[self.log_unit]
        cells |= {name: cells[name] / nats for name in _LOGARITHMS if cells.get(name) is not None}
        if cells.get("top") is not None:
            cells["top"] = tuple((token, logprob / nats) for token, logprob in cells["top"])

    def arrow_fields(self, kept: Mapping[str, type] | None = None) -> list[tuple[str, Any]]:
        """Return each column with its Arrow type.

        Args:
            kept: Types of the kept columns; str if they are not given.

        Raises:
            DependencyError: pyarrow is not installed.
        """
        pyarrow, _ = import_pyarrow()
        types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
        return [(name, types[cell_type]) for name, cell_type in {**self.columns, **(kept or {})}.items()]

    def write_parquet(self, lines: Path, target: Path, *, metadata: Mapping[str, str]) -> None:
        """Write lines as a Parquet file, a few megabytes at a time.

        A kept column holds ints, floats or bools if all of its cells are such, else text.

        Args:
            lines: A file with the lines that the method ``line`` returns.
            target: The file to write.
            metadata: Written to the file's schema.

        Raises:
            DependencyError: pyarrow is not installed.
        """
        pyarrow, parquet = import_pyarrow()
        types: dict[str, type] = {}
        for rows in _read_lines(lines) if self.kept else ():
            for name in self.kept or ():
                for kind in {_arrow_type(cells[name]) for cells in rows if cells[name] is not None}:
                    types[name] = _common_type(types.get(name, kind), kind)
        types = {name: int if kind is _LongInt else kind for name, kind in types.items()}
        schema = pyarrow.schema(self.arrow_fields(types), metadata=dict(metadata))
        as_text = [name for name in self.kept or () if types.get(name) is str]
        with parquet.ParquetWriter(target, schema) as writer:
            for rows in _read_lines(lines):
                for cells in rows if as_text else ():
                    cells.update((name, _as_text(cells[name])) for name in as_text if cells[name] is not None)
                writer.write_batch(pyarrow.RecordBatch.from_pylist(rows, schema=schema))


def _read_lines(lines: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield the cells of the rows in a file of JSON lines, a few megabytes at a time."""
    with lines.open("rb") as source:
        while chunk := source.readlines(_CONVERTED_BYTES):
            yield [json.loads(line) for line in chunk]


class _LongInt(int):
    """Type of a whole number that int64 holds, and float64 does not."""


def _arrow_type(cell: object) -> type:
    if type(cell) is not int or -(1 << 53) <= cell <= 1 << 53:
        return type(cell)
    return _LongInt if -(1 << 63) <= cell < 1 << 63 else str


def _common_type(first: type, second: type) -> type:
    """Return the type of a column with cells of two types, which holds both without rounding; str at the worst."""
    both = {first, second}
    if len(both) == 1:
        return first
    return float if both == {int, float} else _LongInt if both == {int, _LongInt} else str


def _as_text(cell: object) -> str:
    """Return a kept cell as text."""
    return cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False)


def _as_json(cell: Any) -> Any:
    """Return a kept cell as a JSON value. NaN and infinity, which JSON lacks, become ``None``."""
    try:
        json.dumps(cell, allow_nan=False)
    except ValueError:
        return json.loads(json.dumps(cell), parse_constant=lambda _: None)
    return cell


def _as_scalar(cell: Any) -> Any:
    """Return a kept cell as a number, bool or text."""
    return _as_json(cell) if isinstance(cell, float | int) else _as_text(cell)


def check_unit(unit: object, options: Sequence[str] = (), *, units: Sequence[str] = UNITS) -> None:
    """Raise ``InputError`` for an unknown unit, or for options that need tokens, words or regions.

    Args:
        unit: The unit of one row of output.
        options: Names of the set options that say something about one place in a text.
        units: The units that there are.
    """
    check_choice("unit", units, by=unit)
    if options and unit == "sentence":
        raise InputError(
            f"a sentence has no {', '.join(options)}", where="by", found="'sentence'", expected="'token' or 'word'"
        )


def scored_lines(scorer: Scorer, window: Sequence[Row], table: ScoreTable, layout: Layout) -> OutputLines:
    """Return the output lines of some rows. Every row has lines, in order, even a row that cannot be scored.

    Args:
        scorer: Model, tokenizer and options.
        window: Whole groups of rows, which are scored together.
        table: The table to write.
        layout: How the rows make up texts.

    Raises:
        LanguageError: The tokenizer does not have the language, or cannot split it into words.
    """
    if table.kept is not None:
        keys = set().union(*(row.cells for row in window if row.cells is not None))
        if dropped := sorted(keys.difference(table.kept)):
            names = ", ".join(map(ascii, dropped))[:200]
            warn_caller(f"keys that the first row of the file lacks are dropped: {names}")
    lines: list[str] = []
    problems = tokens = unknown = 0
    for text in layout.scores(scorer, list(layout.groups(window)), table.cells_of):
        for row, cells in table.rows(text):
            # Kept cells come last, as a kept column may have a name that this table does not use, such as file.
            cells.update(table.kept_cells(row))
            lines.append(table.line(cells))
        if isinstance(text.result, SentenceScore):
            tokens += len(text.result.tokens)
            unknown += text.result.unknown
        else:
            problems += len(text.rows)
    # Half surrogate pairs, which UTF-8 cannot hold, become question marks; only kept cells can have them.
    return OutputLines("".join(lines).encode("utf-8", "replace"), problems, tokens, {"unknown": unknown})


def status_of(result: SentenceScore | XLMError | None) -> str:
    """Return the cell ``status`` of the rows of a text, as far as the rows themselves have no problem."""
    if isinstance(result, XLMError):
        return f"error: {result.in_short}"
    if result is not None and result.windows > 1:
        return f"long: {result.windows} windows"
    return "ok" if result is None or result.text.strip() else "empty"


def _closing_cells(result: SentenceScore) -> dict[str, Any]:
    """Return the cells of the closing ``</s>`` as a word."""
    end = len(result.text)
    return {
        "start": end,
        "end": end,
        "tokens": 1,
        "surprisal": 0.0 - result.logprobs[-1],
        "unknown": result.unknowns[-1],
        "text": result.tokens[-1],
        "rank": result.ranks and result.ranks[-1],
        "entropy": result.entropies and result.entropies[-1],
        "top": result.top and result.top[-1],
    }


def token_cells(result: SentenceScore) -> list[dict[str, Any]]:
    """Return the cells of each token of a text, with every score in the result."""
    columns: dict[str, Sequence[Any] | None] = {
        "position": range(1, len(result.tokens) + 1),
        "id": result.ids,
        "token": result.tokens,
        "logprob": result.logprobs,
        "surprisal": [0.0 - logprob for logprob in result.logprobs],
        "rank": result.ranks,
        "entropy": result.entropies,
        "top": result.top,
        "unknown": result.unknowns,
    }
    known = {name: values for name, values in columns.items() if values is not None}
    return [dict(zip(known, cells, strict=True)) for cells in zip(*known.values(), strict=True)]
