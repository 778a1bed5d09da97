"""Rows of a corpus to rows of a table of scores, window by window."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from xlm._io.arguments import check_choice
from xlm._io.resumable import other_input_error
from xlm.corpus.read_ahead import READ_AHEAD, row_identity, windows
from xlm.corpus.rows import Row
from xlm.corpus.tables import Cell, Table
from xlm.errors import InputError
from xlm.scoring.scorer import Scorer
from xlm.scoring.sentence import SentenceScore

UNITS = ("sentence", "word", "token")
"""The units that one row of output can stand for."""

_COLUMNS: dict[str, dict[str, type]] = {
    "sentence": {"tokens": int, "logprob": float, "unknown": int, "text": str},
    "word": {
        "word": int,
        "start": int,
        "end": int,
        "tokens": int,
        "logprob": float,
        "unknown": bool,
        "text": str,
    },
    "token": {"position": int, "id": int, "token": str, "logprob": float, "unknown": bool},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreTable(Table):
    """The table that ``xlm score`` writes.

    Attributes:
        unit: One of ``UNITS``.
        files: Whether a first column names the file.
        bits: Whether a column ``bits`` follows ``logprob``: the surprisal, ``-logprob / log 2``.
        ranks: Whether each token's rank follows.
        entropies: Whether the entropy of each token's prediction follows.
        columns: The columns in order; ``status`` is the last.

    Raises:
        InputError: No such unit, or ranks or entropies of anything but tokens.
        DependencyError: Parquet, and pyarrow is not installed.
    """

    columns: dict[str, type] = field(init=False)
    unit: str
    files: bool = False
    bits: bool = False
    ranks: bool = False
    entropies: bool = False

    def __post_init__(self) -> None:
        check_unit(self.unit, [name for name in ("ranks", "entropies") if getattr(self, name)])
        Table.__post_init__(self)
        columns: dict[str, type] = {"file": str} if self.files else {}
        columns["line"] = int
        for name, kind in _COLUMNS[self.unit].items():
            columns[name] = kind
            if name == "logprob":
                further = (("bits", float, self.bits), ("rank", int, self.ranks), ("entropy", float, self.entropies))
                columns.update((other, of_other) for other, of_other, wanted in further if wanted)
        object.__setattr__(self, "columns", {**columns, "status": str})

    def lines(self, row: Row, result: SentenceScore | InputError | None) -> Iterator[str]:
        """Yield the lines of one input row, with their ends; arguments as for ``cells``."""
        return map(self.line, self.cells(row, result))

    def cells(self, row: Row, result: SentenceScore | InputError | None) -> Iterator[dict[str, Cell]]:
        """Yield the cells of one input row by column: once for sentences, once or more for words and tokens.

        Args:
            row: The input row.
            result: Its scores, or why it has none; ``None`` when the row itself has a problem.
        """
        shared: dict[str, Cell] = {"file": row.file, "line": row.number, "status": status_of(row, result)}
        cells = _cells(result, self.unit) if isinstance(result, SentenceScore) else [{"text": row.text}]
        for cell in cells:
            logprob = cell.get("logprob")
            bits = {"bits": (0.0 - logprob) / math.log(2)} if self.bits and isinstance(logprob, float) else {}
            yield {**cell, **bits, **shared}


def check_unit(unit: object, of_tokens: Sequence[str] = ()) -> None:
    """Raise ``InputError`` for no such unit, or for options that only tokens have.

    Args:
        unit: What one row is to be.
        of_tokens: Names of such options that are given.
    """
    check_choice("unit", UNITS, by=unit)
    if of_tokens and unit != "token":
        raise InputError(f"only tokens have {', '.join(of_tokens)}", where="by", found=repr(unit), expected="'token'")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredWindow:
    """The output of one window of rows.

    Attributes:
        data: Their lines of output, UTF-8.
        rows: Number of input rows.
        problems: Number of rows that could not be scored.
        tokens: Number of predicted tokens.
        unknown: Number of them that are ``<unk>``.
        digest: Identifies all input rows up to the last of these.
    """

    data: bytes
    rows: int
    problems: int
    tokens: int
    unknown: int
    digest: str


def score_rows(
    scorer: Scorer,
    rows: Iterable[Row],
    table: ScoreTable,
    *,
    read_at_once: int = READ_AHEAD,
    done: int = 0,
    digest: str = "",
) -> Iterator[ScoredWindow]:
    """Yield the scores of rows as lines of a table; every row comes out, in order, whatever is wrong with it.

    A window holds rows of one file. Where it ends depends on the rows and on where the first begins only. So a file has
    the same windows, batches and digits whatever is scored beside it, and in a run that begins at the end of another's
    window they are those that the other would have had.

    Args:
        scorer: Model, tokenizer and options.
        rows: The input, read as windows are taken.
        table: The form of the output.
        read_at_once: Maximum number of rows in a window.
        done: Rows to leave out at the start, which ended a window in another run.
        digest: What that window had for ``digest``.

    Raises:
        InputError: The rows that are left out are not those of the other run.
        LanguageError: A language that the tokenizer does not have, or that cannot be divided into words.
    """
    source = iter(rows)
    seen = _skipped(source, done=done, digest=digest)
    for window in windows(source, read_at_once=read_at_once):
        for row in window:
            seen.update(row_identity(row))
        data, problems, tokens, unknown = scored_lines(scorer, window, table)
        yield ScoredWindow(
            data=data,
            rows=len(window),
            problems=problems,
            tokens=tokens,
            unknown=unknown,
            digest=seen.hexdigest(),
        )


def scored_lines(scorer: Scorer, window: Sequence[Row], table: ScoreTable) -> tuple[bytes, int, int, int]:
    """Return the lines of one window, UTF-8, and counts: rows that could not be scored, predicted tokens, ``<unk>``.

    Args:
        scorer: Model, tokenizer and options.
        window: Rows, which are scored together.
        table: The form of the output.

    Raises:
        LanguageError: A language that the tokenizer does not have, or that cannot be divided into words.
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
    return "".join(lines).encode("utf-8"), problems, tokens, unknown


def results_of(scorer: Scorer, window: Iterable[Row]) -> list[SentenceScore | InputError | None]:
    """Return the scores of each row, or why it has none; ``None`` where the row itself has a problem.

    Args:
        scorer: Model, tokenizer and options.
        window: The rows; they are scored together.

    Raises:
        LanguageError: A language that the tokenizer does not have, or that cannot be divided into words.
    """
    rows = list(window)
    results = iter(scorer.score_window([row.text for row in rows if row.text is not None]))
    return [None if row.text is None else _finite(next(results)) for row in rows]


def check_same(rows: Iterable[Row], *, done: int, digest: str) -> None:
    """Check that rows are those of a finished run; reads all of them.

    Args:
        rows: The input.
        done: How many rows that run had.
        digest: What its last window had for ``digest``.

    Raises:
        InputError: They are others, fewer or more.
    """
    source = iter(rows)
    _skipped(source, done=done, digest=digest)
    more = sum(1 for _ in source)
    if more:
        raise _other_rows(done, found=f"{done + more:,} rows")


def _skipped(rows: Iterator[Row], *, done: int, digest: str) -> hashlib.blake2b:
    seen = hashlib.blake2b()
    skipped = 0
    for row in islice(rows, done):
        seen.update(row_identity(row))
        skipped += 1
    if skipped < done:
        raise _other_rows(done, found=f"{skipped:,} rows")
    if done and seen.hexdigest() != digest:
        raise _other_rows(done, found="other texts")
    return seen


def _other_rows(done: int, *, found: str) -> InputError:
    otherwise = "start again without --resume, after removing what the other run left unfinished"
    return other_input_error(f"the {done:,} rows of that run", found=found, otherwise=otherwise)


def _finite(result: SentenceScore | InputError) -> SentenceScore | InputError:
    if isinstance(result, SentenceScore) and not all(map(math.isfinite, (*result.logprobs, *(result.entropies or ())))):
        return InputError("the scores are not finite")
    return result


def status_of(row: Row, result: SentenceScore | InputError | None) -> str:
    """Return what the column ``status`` says of one input row; arguments as for ``ScoreTable.cells``."""
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
