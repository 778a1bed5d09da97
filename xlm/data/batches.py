"""Batches of running text, read one ahead."""

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
class StreamBatch:
    """A window of one language, or some of its rows.

    Attributes:
        input_ids: (rows, W) int64.
        language: Language of all its tokens.
        position: Position in the data after it.
    """

    input_ids: Ids
    language: str
    position: Position


def open_streams(
    directory: Path, index: Index, split: str, *, batch_size: int, seq_len: int, check: bool = True
) -> dict[str, Stream]:
    """Return the streams of a split, by language.

    Args:
        directory: Directory of prepared data.
        index: Its index.
        split: ``train``, ``valid`` or another split.
        batch_size: Rows of a window.
        seq_len: Tokens of a row.
        check: Whether to verify the checksums of the shards.

    Raises:
        InputError: The split does not exist, a text in it is not fully prepared, or a shard is damaged.
    """
    texts = index.splits.get(split, {})
    if not texts:
        raise InputError(
            "the prepared data has no such split",
            where=directory,
            found=", ".join(index.splits) or "nothing",
            expected=split,
            remedy=f"xlm prepare … --{split} LANG=FILE",
        )
    unfinished = [language for language, text in texts.items() if not text.complete]
    if unfinished:
        raise InputError(
            "the text is not fully prepared",
            where=directory,
            found=f"{split}: {', '.join(unfinished)}",
            remedy="run the same xlm prepare again; it continues where it was interrupted",
        )
    return {
        language: Stream(
            sequence=ShardSequence(directory, text.shards, dtype=index.dtype, vocab_size=index.vocab_size, check=check),
            rows=batch_size,
            width=seq_len,
        )
        for language, text in sorted(texts.items())
    }


def batches(
    streams: Mapping[str, Stream], order: Order, position: Position, *, first_row: int = 0, rows: int | None = None
) -> Generator[StreamBatch, None, None]:
    """Yield batches without end. A thread reads the next one while the caller works on a batch.

    Args:
        streams: Streams by language.
        order: Order of the batches.
        position: Position to start from.
        first_row: First row of each window to read; one of several processes reads only its own rows.
        rows: Number of rows to read; None for all that follow.
    """

    def read(position: Position) -> StreamBatch:
        language, window, after = order.next(position)
        return StreamBatch(
            input_ids=streams[language].window(window, first_row, rows), language=language, position=after
        )

    with ThreadPoolExecutor(1, thread_name_prefix="xlm-batches") as thread:
        following = thread.submit(read, position)
        while True:
            batch = following.result()
            following = thread.submit(read, batch.position)
            yield batch
