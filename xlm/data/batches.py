"""Batches of running text: their order, and a generator that reads one batch ahead.

A seed and a position determine the order. It is computed from the raw numbers of numpy's generators, because numpy
guarantees that these never change. The generators' methods ``permutation`` and ``choice`` may change, and a resumed run
would then take different batches.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xlm.data.shards import Index, ShardSequence, Text
from xlm.errors import InputError
from xlm.scoring.stream import Ids, Stream


@dataclass(frozen=True, kw_only=True)
class Position:
    """Position of a run in its data.

    ``dataclasses.asdict`` converts it for JSON, and ``Position(**values)`` converts it back.

    Attributes:
        batches: Number of batches taken.
        taken: Number of batches taken from each language.
    """

    batches: int = 0
    taken: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Order:
    """Order of the batches.

    Args:
        windows: Number of windows of each language.
        seed: Seed of the order.
        exponent: None for rounds in which every language comes once, in random order. Otherwise languages are drawn
            with a probability proportional to ``p ** exponent``, where p is the language's share of all windows.
        shuffle: Whether to shuffle the windows of a language anew for each pass, or take them in the order of the text.

    Source: the original's ``shuf_order`` and ``lg_sampling_factor``.
    """

    windows: Mapping[str, int]
    seed: int = 0
    exponent: float | None = None
    shuffle: bool = True
    _permutations: dict[tuple[str, int], np.ndarray[Any, Any]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.windows or min(self.windows.values()) < 1:
            raise InputError(
                "a language has no text", where="windows", found=json.dumps(dict(self.windows)), expected="one or more"
            )

    def next(self, position: Position) -> tuple[str, int, Position]:
        """Return the language and the window of the next batch, and the position after it."""
        language = self._language(position.batches)
        taken = position.taken.get(language, 0)
        after = Position(batches=position.batches + 1, taken={**position.taken, language: taken + 1})
        return language, self._window(language, *divmod(taken, self.windows[language])), after

    def _language(self, batch: int) -> str:
        names = sorted(self.windows)
        if self.exponent is None:
            order = permutation(len(names), seed=self.seed, purpose="round", number=batch // len(names))
            return names[int(order[batch % len(names)])]
        total = sum(self.windows.values())
        weights = np.array([(self.windows[name] / total) ** self.exponent for name in names])
        draw = float(RawNumbers(self.seed, "language", batch).random((1,))[0])
        return names[min(int(np.searchsorted(np.cumsum(weights / weights.sum()), draw, side="right")), len(names) - 1)]

    def _window(self, language: str, passes: int, index: int) -> int:
        if not self.shuffle:
            return index
        if (language, passes) not in self._permutations:
            for key in [key for key in self._permutations if key[0] == language]:
                del self._permutations[key]
            self._permutations[language, passes] = permutation(
                self.windows[language], seed=self.seed, purpose=f"window {language}", number=passes
            )
        return int(self._permutations[language, passes][index])


def permutation(length: int, *, seed: int, purpose: str, number: int) -> np.ndarray[Any, Any]:
    """Return a random order of the numbers from 0 to ``length`` - 1, the same in every version of numpy.

    Args:
        length: Number of numbers.
        seed: Seed of the run.
        purpose: Name for what is shuffled; each purpose has its own random numbers.
        number: Index of the permutation among those for this purpose, from 0.
    """
    return np.argsort(_generator(seed, purpose, number).random_raw(length), kind="stable")


class RawNumbers:
    """Random numbers that are the same in every version of numpy.

    Args:
        seed: Seed of the run.
        purpose: Name for what the numbers are used for; each purpose has its own numbers.
        number: Index of the series of numbers for this purpose, from 0.
    """

    def __init__(self, seed: int, purpose: str, number: int) -> None:
        self._generator = _generator(seed, purpose, number)

    def random(self, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return numbers from 0 to below 1."""
        # The upper 53 bits of a raw number, as a fraction.
        raw = self._generator.random_raw(math.prod(shape)) >> 11
        return raw.reshape(shape).astype(np.float64) * 2.0**-53

    def integers(self, low: int, high: int) -> int:
        """Return an integer from ``low`` to ``high`` - 1."""
        return low + int(float(self.random((1,))[0]) * (high - low))


def _generator(seed: int, purpose: str, number: int) -> np.random.PCG64:
    return np.random.PCG64(np.random.SeedSequence([seed, number, *purpose.encode()]))


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamBatch:
    """A window of one language, or some of its rows.

    Attributes:
        input_ids: (rows, W) int64.
        language: Language of all tokens.
        position: Position in the data after this batch.
    """

    input_ids: Ids
    language: str
    position: Position


def monolingual_texts(index: Index, split: str, languages: Collection[str] = ()) -> dict[str, Text]:
    """Return the texts of a split by language, without the sides of pairs, which have names such as ``de-en.de``.

    Args:
        index: Index of prepared data.
        split: ``train``, ``valid`` or another split.
        languages: Languages to return if the split has them; empty for all.
    """
    texts = {name: text for name, text in index.splits.get(split, {}).items() if "." not in name}
    return {name: text for name, text in texts.items() if not languages or name in languages}


def open_streams(
    directory: Path,
    index: Index,
    split: str,
    *,
    batch_size: int,
    seq_len: int,
    languages: Collection[str] = (),
    check: bool = True,
) -> dict[str, Stream]:
    """Return the streams of a split, by language.

    Args:
        directory: Directory of prepared data.
        index: The index of this directory.
        split: ``train``, ``valid`` or another split.
        batch_size: Rows per window.
        seq_len: Tokens per row.
        languages: Languages to open; empty for all.
        check: Whether to verify the checksums of the shards.

    Raises:
        InputError: The split or a language of it does not exist, a text is not fully prepared, or a shard is damaged.
    """
    texts = monolingual_texts(index, split)
    if not texts:
        raise InputError(
            "the prepared data has no such split",
            where=directory,
            found=", ".join(index.splits) or "nothing",
            expected=f"{split}, with text other than pairs",
            remedy=f"xlm prepare … --{split} LANG=FILE",
        )
    if missing := sorted(set(languages) - set(texts)):
        raise InputError(
            "the prepared data lacks a text",
            where=directory,
            found=f"{split}: {', '.join(texts)}",
            expected=", ".join(missing),
            remedy=f"xlm prepare … --{split} {missing[0]}=FILE",
        )
    texts = monolingual_texts(index, split, languages)
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
    """Yield batches without end. A thread reads the next batch while the caller uses the current one.

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
