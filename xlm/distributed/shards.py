"""Shards: consecutive windows of one file. A worker processes one shard at a time and writes its results as one part.

A window holds the same rows as in a run without Ray. These rows are computed together, so both runs give the same
results to the last digit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from xlm.corpus.read_ahead import read_ahead, row_identity, windows
from xlm.corpus.rows import Corpus, Row

_MAX_CHARACTERS = 1 << 25

Windows = tuple[tuple[Row, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """Consecutive windows of one file.

    Attributes:
        file: Index of the file, from 0.
        index: Index of the shard in its file, from 0.
        windows: The rows of each window; empty for a file without rows.
        last: Whether the shard is the last of the file.
        damaged: Whether the file could not be read beyond this shard, and must be read again.
        warnings: Warnings about the file; only the last shard of the file has them.
    """

    file: int
    index: int
    windows: Windows
    last: bool = False
    damaged: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The hexadecimal digest of the rows and the window boundaries."""
        digest = hashlib.blake2b(digest_size=16)
        for window in self.windows:
            digest.update(b"%d\n" % len(window))
            for row in window:
                digest.update(row_identity(row))
        return digest.hexdigest()

    def to_bytes(self) -> bytes:
        """Return the shard in the form that is sent to workers."""
        name = next((window[0].file for window in self.windows), "")
        rows = [[[row.number, row.text, row.problem, row.cells] for row in window] for window in self.windows]
        fields = [self.file, self.index, self.last, self.damaged, self.warnings, name, rows]
        # ASCII escapes could more than double the size of a text, and readers can run on machines with little memory.
        return json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogatepass")

    @classmethod
    def from_bytes(cls, data: bytes) -> Shard:
        """Return the shard that ``to_bytes`` encoded."""
        file, index, last, damaged, warnings, name, rows = json.loads(data)
        decoded = tuple(
            tuple(
                Row(file=name, number=number, text=text, problem=problem, cells=cells)
                for number, text, problem, cells in window
            )
            for window in rows
        )
        return cls(file=file, index=index, windows=decoded, last=last, damaged=damaged, warnings=tuple(warnings))


def shards_of(
    corpus: Corpus,
    *,
    file: int,
    read_at_once: int,
    windows_per_shard: int,
    groups: Callable[[Iterable[Row]], Iterable[list[Row]]] | None = None,
) -> Iterator[Shard]:
    """Yield the shards of a file in order, at least one. The file is read while shards are taken.

    Args:
        corpus: The rows of one file.
        file: Index of the file.
        read_at_once: Maximum number of rows in a window.
        windows_per_shard: Maximum number of windows in a shard; about 30 million characters also fill a shard.
        groups: As for ``windows``.
    """
    index = 0
    # The last shard is marked, so each shard is held back until the next one begins or the file ends.
    waiting: Windows = ()
    for group in read_ahead(
        map(tuple, windows(corpus, read_at_once=read_at_once, groups=groups)),
        lambda window: sum(len(row.text or "") for row in window),
        most=windows_per_shard,
        characters=_MAX_CHARACTERS,
    ):
        if waiting:
            yield Shard(file=file, index=index, windows=waiting)
            index += 1
        waiting = tuple(group)
    damaged = bool(corpus.damaged)
    yield Shard(file=file, index=index, windows=waiting, last=True, damaged=damaged, warnings=tuple(corpus.warnings))
