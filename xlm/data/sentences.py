"""Access to the sentences of prepared text, one at a time or in padded batches of similar length.

Shapes: B sentences, T tokens in the longest one.

Source: the original's ``Dataset`` and ``ParallelDataset`` in ``src/data/dataset.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xlm.scoring.stream import Sequence as IdSequence

Ids = np.ndarray[Any, np.dtype[np.int64]]

_BLOCK = 1 << 22


class Sentences:
    """The sentences of one prepared text. The ids of a sentence are read when a method returns them.

    Args:
        sequence: Ids of all sentences, each sentence followed by ``</s>``.
        eos_id: Id of ``</s>``.
        pad_id: Id of ``<pad>``.

    Attributes:
        lengths: (N,) int64 number of tokens in each sentence, without ``</s>``.
    """

    def __init__(self, sequence: IdSequence, *, eos_id: int = 1, pad_id: int = 2) -> None:
        self._sequence, self._eos_id, self._pad_id = sequence, eos_id, pad_id
        blocks = [
            np.flatnonzero(sequence.slice(begin, min(begin + _BLOCK, len(sequence))) == eos_id) + begin
            for begin in range(0, len(sequence), _BLOCK)
        ]
        self._ends = np.concatenate([np.empty(0, np.int64), *blocks]).astype(np.int64)
        self._begins = np.concatenate([np.zeros(1, np.int64), self._ends + 1])[:-1]
        self.lengths: Ids = self._ends - self._begins

    def __len__(self) -> int:
        return len(self.lengths)

    def ids(self, index: int) -> Ids:
        """Return the ids of the sentence with this index, without ``</s>``."""
        return self._sequence.slice(int(self._begins[index]), int(self._ends[index]))

    def batch(self, indices: Sequence[int] | Ids) -> tuple[Ids, Ids]:
        """Return a batch of sentences, each with ``</s>`` at both ends, and their lengths.

        Args:
            indices: Indices of the sentences, from 0.

        Returns:
            (B, T) int64 ids padded on the right with ``<pad>``, and (B,) int64 lengths that include both ``</s>``.
        """
        sentences = [
            np.concatenate([[self._eos_id], self.ids(int(index)), [self._eos_id]], dtype=np.int64) for index in indices
        ]
        return padded(sentences, pad_id=self._pad_id)


def padded(sentences: Sequence[Ids], *, pad_id: int) -> tuple[Ids, Ids]:
    """Return sentences in one array, (B, T) int64, padded on the right, and their (B,) int64 lengths."""
    lengths_B = np.array([len(sentence) for sentence in sentences], np.int64)
    ids_BT = np.full((len(sentences), int(lengths_B.max())), pad_id, np.int64)
    for row, sentence in zip(ids_BT, sentences, strict=True):
        row[: len(sentence)] = sentence
    return ids_BT, lengths_B


def usable(lengths: Sequence[Ids], *, longest: int) -> Ids:
    """Return the indices of sentences that are neither empty nor too long; for pairs, both sides must qualify.

    Args:
        lengths: (N,) lengths without ``</s>``: one array for a text, or two for the sides of a parallel text.
        longest: Maximum number of tokens in a sentence, without ``</s>``; 0 for no limit.
    """
    keep = np.ones(len(lengths[0]), bool)
    for side in lengths:
        keep &= side > 0
        if longest:
            keep &= side <= longest
    return np.flatnonzero(keep)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batching:
    """How sentences are divided into batches.

    Attributes:
        batch_size: Maximum number of sentences in a batch; the sizes of batches differ by at most one. Not used with
            ``tokens_per_batch``.
        tokens_per_batch: Approximate number of tokens in a batch, with ``</s>`` but without padding. If it is 0,
            ``batch_size`` determines the batches.
        max_batch_size: Maximum number of sentences in a batch; 0 for no limit. From a larger batch, this many sentences
            are drawn at random, and the others are left out of this pass.
        group_by_size: Whether a batch holds sentences of similar length.
    """

    batch_size: int = 32
    tokens_per_batch: int = 0
    max_batch_size: int = 0
    group_by_size: bool = True

    def divide(self, lengths: Ids, permutation: Callable[[int], Ids] | None) -> list[Ids]:
        """Return the batches of one pass: arrays of indices, in order.

        Args:
            lengths: (N,) int64 length of each sentence, ``</s>`` included; for pairs, the sum of both sides.
            permutation: Function that returns the numbers from 0 to ``count`` - 1 in random order, for a given count.
                It is called for the sentences, then for the batches. ``None`` shuffles nothing.
        """
        order = np.arange(len(lengths)) if permutation is None else permutation(len(lengths))
        if self.group_by_size:
            order = order[np.argsort(lengths[order], kind="stable")]
        if self.tokens_per_batch:
            multiples = np.cumsum(lengths[order]) // self.tokens_per_batch
            batches = np.split(order, np.flatnonzero(np.diff(multiples)) + 1)
        else:
            batches = np.array_split(order, math.ceil(len(order) / self.batch_size))
        if permutation is not None:
            batches = [batches[index] for index in permutation(len(batches))]
        return batches

    def cut(self, batch: Ids, permutation: Callable[[int], Ids]) -> Ids:
        """Return at most ``max_batch_size`` sentences of a batch, drawn at random."""
        if not 0 < self.max_batch_size < len(batch):
            return batch
        return batch[permutation(len(batch))][: self.max_batch_size]
