"""A corpus of any size to rows of scores, window by window."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from xlm.errors import InputError
from xlm.scoring.rows import Row
from xlm.scoring.score import READ_AHEAD, Scorer, read_ahead
from xlm.scoring.sentence import SentenceScore
from xlm.scoring.table import Table


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredWindow:
    """The output of some rows that were read together.

    Attributes:
        data: Their lines of output, UTF-8.
        rows: How many input rows there were.
        problems: How many of them could not be scored.
        tokens: How many tokens were predicted.
        digest: Identifies all input rows up to the last of these.
    """

    data: bytes
    rows: int
    problems: int
    tokens: int
    digest: str


def score_rows(
    scorer: Scorer,
    rows: Iterable[Row],
    table: Table,
    *,
    read_at_once: int = READ_AHEAD,
    done: int = 0,
    digest: str = "",
) -> Iterator[ScoredWindow]:
    """Scores rows and writes them as lines of a table; every row comes out, in order, whatever is wrong with it.

    Where a window ends depends on the rows and on where the first begins only. So a run that begins at the end of
    another's window has the same windows, batches and digits that the other would have had.

    Args:
        scorer: Model, tokenizer and options.
        rows: The input, read as windows are taken.
        table: The form of the output.
        read_at_once: Most rows of a window.
        done: Rows to leave out at the start, which ended a window in another run.
        digest: What that window had for ``digest``.

    Raises:
        InputError: The rows that are left out are not those of the other run.
        LanguageError: A language that the tokenizer does not have, or that cannot be divided into words.
    """
    seen = hashlib.blake2b()
    source = iter(rows)
    skipped = 0
    for row in islice(source, done):
        seen.update(_identity(row))
        skipped += 1
    if done and (skipped < done or seen.hexdigest() != digest):
        raise InputError(
            "the input is not that of the run that was cut off",
            where=f"the first {done:,} rows",
            found=f"{skipped:,} rows" if skipped < done else "other texts",
            expected="the same rows as then",
            remedy="start again, without what the other run left",
        )
    for window in read_ahead(source, lambda row: len(row.text or ""), most=read_at_once):
        for row in window:
            seen.update(_identity(row))
        texts = [row.text for row in window if row.text is not None]
        results: Iterator[SentenceScore | InputError] = iter(scorer.score_window(texts))
        lines: list[str] = []
        problems = tokens = 0
        for row in window:
            result = None if row.text is None else next(results)
            lines += table.lines(row, result)
            if isinstance(result, SentenceScore):
                tokens += len(result.tokens)
            else:
                problems += 1
        yield ScoredWindow(
            data="".join(lines).encode("utf-8"),
            rows=len(window),
            problems=problems,
            tokens=tokens,
            digest=seen.hexdigest(),
        )


def _identity(row: Row) -> bytes:
    return f"{row.file}\t{row.number}\t{row.text}\t{row.problem}\n".encode("utf-8", "backslashreplace")
