"""Prepared text as batches, read ahead of the step that takes them."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from xlm.data.order import Order, Position
from xlm.data.shards import Index, ShardSequence
from xlm.errors import InputError
from xlm.scoring.stream import Ids, Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One window of one language, or some of its rows.

    Attributes:
        input_ids: (rows, W) int64.
        language: Of all its tokens.
        position: Where the run is after it.
    """

    input_ids: Ids
    language: str
    position: Position


def open_streams(
    directory: Path, index: Index, split: str, *, rows: int, width: int, check: bool = True
) -> dict[str, Stream]:
    """The streams of a split, by language.

    Args:
        directory: A prepared directory.
        index: Its index.
        split: ``train``, ``valid``, …
        rows: Rows B of a window.
        width: Tokens W of a row.
        check: Whether to compare the checksums of the shards.

    Raises:
        InputError: There is no such split, a text in it is not complete, or a shard is damaged.
    """
    texts = index.splits.get(split, {})
    if not texts:
        raise InputError(
            "There is no such part of the prepared text",
            where=directory,
            found=", ".join(index.splits) or "nothing",
            expected=split,
            remedy=f"xlm prepare … --{split} LANG=FILE",
        )
    unfinished = [language for language, text in texts.items() if not text.complete]
    if unfinished:
        raise InputError(
            "The text is not prepared to its end",
            where=directory,
            found=f"{split}: {', '.join(unfinished)}",
            remedy="run the same xlm prepare again; it goes on where it was cut off",
        )
    return {
        language: Stream(
            sequence=ShardSequence(directory, text.shards, dtype=index.dtype, vocab_size=index.vocab_size, check=check),
            rows=rows,
            width=width,
        )
        for language, text in sorted(texts.items())
    }


def batches(
    streams: Mapping[str, Stream], order: Order, position: Position, *, first_row: int = 0, rows: int | None = None
) -> Generator[Batch, None, None]:
    """Yields batches without end; the next one is read in a thread while a batch is at work.

    Args:
        streams: By language.
        order: What comes when.
        position: Where to begin.
        first_row: The first row of each window that is wanted; a process among several takes only its own.
        rows: How many rows; None for all that follow.
    """

    def read(position: Position) -> Batch:
        language, window, after = order.next(position)
        return Batch(input_ids=streams[language].window(window, first_row, rows), language=language, position=after)

    with ThreadPoolExecutor(1, thread_name_prefix="xlm-batches") as thread:
        following = thread.submit(read, position)
        while True:
            batch = following.result()
            following = thread.submit(read, batch.position)
            yield batch
