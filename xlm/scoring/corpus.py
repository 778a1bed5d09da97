"""A corpus of any size to rows of scores, window by window."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from xlm._io.resumable import other_input_error
from xlm.corpus.read_ahead import READ_AHEAD, row_identity, windows
from xlm.corpus.rows import Row
from xlm.errors import InputError
from xlm.scoring.scorer import Scorer
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
        unknown: How many of them are ``<unk>``.
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
    table: Table,
    *,
    read_at_once: int = READ_AHEAD,
    done: int = 0,
    digest: str = "",
) -> Iterator[ScoredWindow]:
    """Scores rows and writes them as lines of a table; every row comes out, in order, whatever is wrong with it.

    A window holds rows of one file. Where it ends depends on the rows and on where the first begins only. So a file has
    the same windows, batches and digits whatever is scored beside it, and in a run that begins at the end of another's
    window they are those that the other would have had.

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


def scored_lines(scorer: Scorer, window: Sequence[Row], table: Table) -> tuple[bytes, int, int, int]:
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
    """What each of some rows has for scores, or why it has none; ``None`` where the row itself has a problem.

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
    """Reads all rows, to see that they are those of a run that is finished.

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
