"""Turn rows of a corpus into rows of a table of scores: TSV, JSON lines or Parquet."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from xlm._io.arguments import check_choice
from xlm.corpus.formats import import_pyarrow
from xlm.corpus.rows import Row
from xlm.corpus.tables import Cell, OutputLines, table_line, tsv_line
from xlm.errors import InputError, XLMError, warn_caller
from xlm.scoring.layout import Layout, span_cells
from xlm.scoring.scorer import Scorer, SentenceScore, finite

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
_CONVERTED_BYTES = 8_000_000  # bytes of lines that are converted at once; they take several times as much memory


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreTable:
    """The table that ``xlm score`` writes.

    Attributes:
        unit: One of ``UNITS``.
        format: One of ``TABLE_FORMATS``. Floats have six decimals in TSV and JSON lines, and all digits in Parquet. TSV
            is quoted as in ``tsv_line``.
        files: Whether the first column names the file.
        bits: Whether a column ``bits`` follows ``logprob``: the surprisal, ``-logprob / log 2``.
        ranks: Whether there is a column with the rank of each token.
        entropies: Whether there is a column with the entropy of each token's prediction.
        top: Whether there is a column with the most likely tokens at the place of each token.
        kept: Columns of the input that the table repeats; the others then have the names of ``further_cells``. ``None``
            for a table of texts without further columns.
        columns: Types of the cells by column, in order; ``status`` is the last.

    Raises:
        InputError: There is no such unit, a kept column has the name of another one, or ranks, entropies or the most
            likely tokens are requested without the unit ``token``.
        DependencyError: The format is Parquet, and pyarrow is not installed.
    """

    unit: str
    format: str
    files: bool = False
    bits: bool = False
    ranks: bool = False
    entropies: bool = False
    top: bool = False
    kept: tuple[str, ...] | None = None
    columns: Mapping[str, type] = field(init=False)

    def __post_init__(self) -> None:
        units = UNITS if self.kept is None else tuple(_FURTHER_COLUMNS)
        check_unit(self.unit, [name for name in ("ranks", "entropies", "top") if getattr(self, name)], units=units)
        if self.format == "parquet":
            import_pyarrow()
        columns: dict[str, type] = {"file": str} if self.files else {}
        columns["line"] = int
        for name, cell_type in (_COLUMNS if self.kept is None else _FURTHER_COLUMNS)[self.unit].items():
            columns[name] = cell_type
            if name == ("logprob" if self.kept is None else "surprisal"):
                optional = (
                    ("bits", float, self.bits),
                    ("rank", int, self.ranks),
                    ("entropy", float, self.entropies),
                    ("top", str, self.top),
                )
                columns.update((column, column_type) for column, column_type, requested in optional if requested)
        columns["status"] = str
        if self.kept is not None:
            if taken := [name for name in self.kept if name in columns]:
                raise InputError(
                    "the input has columns with the names of new ones",
                    where="the columns of the input",
                    found=", ".join(taken),
                    remedy="rename them",
                )
            before: dict[str, type] = {name: columns.pop(name) for name in ("file", "line") if name in columns}
            columns = {**before, **dict.fromkeys(self.kept, str), **columns}
        object.__setattr__(self, "columns", columns)

    @property
    def header(self) -> str:
        """The header line, with its line end; empty for formats without a header."""
        return tsv_line(self.columns) if self.format == "tsv" else ""

    def lines(self, row: Row, result: SentenceScore | XLMError | None) -> Iterator[str]:
        """Yield the output lines of one input row, with line ends; arguments as for ``cells``.

        For Parquet, they are lines that ``write_parquet`` reads.
        """
        for cells in self.cells(row, result):
            yield self.line(cells)

    def line(self, cells: Mapping[str, Any]) -> str:
        """Return one line of output, with its end; a missing cell is empty."""
        if cells.get("top") is not None:
            top = [[token, round(logprob, 6)] for token, logprob in cells["top"]]
            cells = {**cells, "top": top if self.format == "jsonl" else json.dumps(top, ensure_ascii=False)}
        return table_line(self.columns, cells, format=self.format)

    def cells(self, row: Row, result: SentenceScore | XLMError | None) -> Iterator[dict[str, Cell]]:
        """Yield the output rows of one input row, each as cells by column; with the unit ``sentence``, there is one.

        Args:
            row: The input row.
            result: The row's scores or the error that prevents scoring; ``None`` if the row itself has a problem.
        """
        shared: dict[str, Cell] = {"file": row.file, "line": row.number, "status": status_of(row, result)}
        result_cells = cells_of(result, self.unit) if isinstance(result, SentenceScore) else [{"text": row.text}]
        for cells in result_cells:
            yield {**cells, **self._bits(cells), **shared}

    def further(self, row: Row, cells: Mapping[str, Any], result: SentenceScore | XLMError | None) -> dict[str, Any]:
        """Return the cells of one row of output without the kept ones.

        Args:
            row: The input row.
            cells: Its scores, as ``Layout.scores`` yields them.
            result: As for ``cells``.
        """
        return {"file": row.file, "line": row.number, **cells, **self._bits(cells), "status": status_of(row, result)}

    def _bits(self, cells: Mapping[str, Any]) -> dict[str, float]:
        logprob = -cells["surprisal"] if "surprisal" in cells else cells.get("logprob")
        return {"bits": (0.0 - logprob) / math.log(2)} if self.bits and isinstance(logprob, float) else {}

    def arrow_fields(self) -> list[tuple[str, Any]]:
        """Return each column with its Arrow type.

        Raises:
            DependencyError: pyarrow is not installed.
        """
        pyarrow, _ = import_pyarrow()
        types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
        return [(name, types[cell_type]) for name, cell_type in self.columns.items()]

    def write_parquet(self, lines: Path, target: Path, *, metadata: Mapping[str, str]) -> None:
        """Write lines as a Parquet file, a few megabytes at a time.

        Args:
            lines: A file with the lines that the method ``lines`` yields.
            target: The file to write.
            metadata: Written to the file's schema.

        Raises:
            DependencyError: pyarrow is not installed.
        """
        pyarrow, parquet = import_pyarrow()
        schema = pyarrow.schema(self.arrow_fields(), metadata=dict(metadata))
        with lines.open("rb") as source, parquet.ParquetWriter(target, schema) as writer:
            while chunk := source.readlines(_CONVERTED_BYTES):
                cells = [json.loads(line) for line in chunk]
                writer.write_batch(pyarrow.RecordBatch.from_pylist(cells, schema=schema))


def check_unit(unit: object, token_options: Sequence[str] = (), *, units: Sequence[str] = UNITS) -> None:
    """Raise ``InputError`` for an unknown unit, or for options that need the unit ``token``.

    Args:
        unit: The unit of one row of output.
        token_options: Names of the set options that need the unit ``token``.
        units: The units that there are.
    """
    check_choice("unit", units, by=unit)
    if token_options and unit != "token":
        raise InputError(
            f"only tokens have {', '.join(token_options)}", where="by", found=repr(unit), expected="'token'"
        )


def scored_lines(scorer: Scorer, window: Sequence[Row], table: ScoreTable) -> OutputLines:
    """Return the output lines of some rows. Every row has lines, in order, even a row that cannot be scored.

    Args:
        scorer: Model, tokenizer and options.
        window: Rows, which are scored together.
        table: The table to write.

    Raises:
        LanguageError: The tokenizer does not have the language, or cannot split it into words.
    """
    lines: list[str] = []
    problems = tokens = unknown = 0
    for row, result in zip(window, results_of(scorer, window), strict=True):
        lines += table.lines(row, result)
        if isinstance(result, SentenceScore):
            tokens += len(result.tokens)
            unknown += result.unknown
        else:
            problems += 1
    return OutputLines("".join(lines).encode("utf-8"), problems, tokens, {"unknown": unknown})


def laid_out_lines(scorer: Scorer, window: Sequence[Row], table: ScoreTable, layout: Layout) -> OutputLines:
    """Return the output lines of rows that make up documents, or whose columns are kept.

    Args:
        scorer: Model, tokenizer and options.
        window: Whole groups of rows, which are scored together.
        table: The table to write.
        layout: How the rows make up texts.

    Raises:
        LanguageError: As for ``scored_lines``.
    """
    kept = table.kept
    parse = plain_cells if kept is None else json_cells
    parsed = {row.number: {} if row.text is None else parse(row) for row in window}  # a window is of one file
    if kept is not None and (dropped := sorted(set().union(*parsed.values()).difference(kept))):
        warn_caller(f"keys that the first row of the file lacks are dropped: {', '.join(map(ascii, dropped))[:200]}")
    lines: list[str] = []
    problems = tokens = unknown = 0

    def cells_of(row: Row) -> Mapping[str, Any]:
        return parsed[row.number]

    groups = list(layout.groups(window, cells_of))
    for row, cells, result, first in layout.scores(scorer, groups, cells_of, partial(cells_of_unit, table)):
        given = {name: _kept(cells_of(row).get(name)) for name in kept or ()}
        if kept is None and not cells:
            cells = {"text": row.text}
        lines.append(table.line({**given, **table.further(row, cells, result)}))
        if isinstance(result, SentenceScore):
            tokens += first * len(result.tokens)
            unknown += first * result.unknown
        else:
            problems += 1
    return OutputLines("".join(lines).encode("utf-8"), problems, tokens, {"unknown": unknown})


def cells_of_unit(table: ScoreTable, result: SentenceScore) -> list[dict[str, Any]]:
    """Return the cells of each row of output of a text, by the names of a table's columns."""
    return cells_of(result, table.unit) if table.kept is None else further_cells(result, table.unit)


def plain_cells(row: Row) -> dict[str, Any]:
    """Return the cells of a row of plain text: the text alone."""
    return {"text": row.text}


def json_cells(row: Row) -> dict[str, Any]:
    """Return the cells of a row whose text is a JSON object of its cells, as in ``Corpus`` with ``whole``."""
    assert row.text is not None
    cells: dict[str, Any] = json.loads(row.text)
    return cells


def _kept(value: object) -> str | None:
    """Return a cell of the input as text; half surrogate pairs, which UTF-8 cannot hold, become question marks."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode("utf-8")


def results_of(scorer: Scorer, window: Sequence[Row]) -> list[SentenceScore | XLMError | None]:
    """Return the scores of each row, or the error that prevents scoring; ``None`` if the row itself has a problem.

    Arguments and errors are those of ``scored_lines``.
    """
    results = iter(scorer.score_window([row.text for row in window if row.text is not None]))
    scores = (finite(result) if isinstance(result, SentenceScore) else result for result in results)
    return [None if row.text is None else next(scores) for row in window]


def status_of(row: Row, result: SentenceScore | XLMError | None) -> str:
    """Return the cell ``status`` of one input row; arguments as for ``ScoreTable.cells``."""
    if row.problem is not None:
        return f"error: {row.problem}"
    if isinstance(result, XLMError):
        return f"error: {result.in_short}"
    assert result is not None
    if result.windows > 1:
        return f"long: {result.windows} windows"
    return "ok" if result.text.strip() else "empty"


def cells_of(result: SentenceScore, unit: str) -> list[dict[str, Any]]:
    """Return the output rows of a text, each as cells by column.

    The unit ``sentence`` gives one row, ``word`` one for each word and one for the closing ``</s>``, and ``token`` one
    for each token.

    Args:
        result: Scores of the text.
        unit: One of ``UNITS``.
    """
    if unit == "sentence":
        tokens, text = len(result.tokens), result.text
        return [{"tokens": tokens, "logprob": result.logprob, "unknown": result.unknown, "text": text}]
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
        if not result.closing:
            return words
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


def further_cells(result: SentenceScore, unit: str) -> list[dict[str, Any]]:
    """Return the rows of output of a text by the names of columns that tables with kept columns have.

    Args:
        result: Scores of the text.
        unit: One of ``UNITS``, or ``region``.
    """
    if unit == "region":
        return [{"region_number": number, **span_cells(each)} for number, each in enumerate(result.regions, start=1)]
    cells = cells_of(result, unit)
    renamed = {"word": "word_number", "text": "word"} if unit == "word" else {}
    punctuation = [word.surprisal_without_punctuation for word in result.words] if unit == "word" else []
    return [
        {
            **{renamed.get(name, name): value for name, value in each.items()},
            "surprisal": 0.0 - each["logprob"],
            "surprisal_without_punctuation": without,
        }
        for each, without in itertools.zip_longest(cells, punctuation)
    ]


def token_cells(result: SentenceScore) -> list[dict[str, Any]]:
    """Return the cells of each token of a text, with every score in the result."""
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
