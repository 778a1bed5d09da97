"""The texts that training data is made of, one by one and in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from xlm.corpus.read_ahead import read_ahead
from xlm.corpus.rows import Corpus

_BATCH_LINES = 2000
_BATCH_CHARACTERS = 1 << 19


def texts_of(path: Path, *, form: str | None = None, column: str | None = None, skip: int = 0) -> Iterator[str]:
    """Yields the texts of a file of any form that ``Corpus`` reads.

    Args:
        path: The file.
        form: As for ``Corpus``.
        column: As for ``Corpus``.
        skip: How many to leave out at the start.

    Raises:
        InputError: One of them cannot be read, or as for ``Corpus``.
        DependencyError: Parquet, and pyarrow is not installed.
    """
    with closing(Corpus([path], format=form, column=column)) as corpus:
        yield from corpus.texts(skip=skip)


def in_batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Returns an iterator over the texts in lists that are worth sending to another process."""
    return read_ahead(texts, len, most=_BATCH_LINES, characters=_BATCH_CHARACTERS)
