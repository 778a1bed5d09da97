"""Finds the chunks of a text and their numbers in numpy, without an object for each chunk.

A chunk is the UTF-8 text between two spaces. The table holds it as three words of 8 bytes, filled up with bytes that do
not occur in UTF-8, so two chunks are equal if their words are.

Array dimensions: N chunks, 3 words.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import numpy as np

from xlm.tokenizer.fast.arrays import Array, expand_slices

_BYTES = 24  # the longest chunk that the table holds
_BLOCK = 1 << 13  # number of chunks that are looked up together, so that the arrays stay small
_FREE = -1  # the number in a free entry of the table


_FILLINGS = np.triu(np.full((_BYTES + 1, _BYTES), 0xFF, np.uint8)).view(np.uint64)
"""For each length of a chunk, the words to combine with its own: 0xFF in each byte after the chunk; (25, 3)."""


@dataclass(frozen=True, slots=True)
class Chunks:
    """The chunks of a text; of several spaces in a row, all but one are ignored.

    Attributes:
        data: The text in UTF-8, with a space at its end and enough bytes after it for the words of the last chunk.
        starts: The index of the first byte of each chunk; int64 (N,).
        lengths: The number of bytes of each chunk, at least 1; int64 (N,).
    """

    data: bytes
    starts: Array
    lengths: Array

    @classmethod
    def of(cls, text: str) -> Chunks:
        """Find the chunks of a text."""
        data = b" ".join([text.encode("utf-8", "surrogatepass"), bytes(_BYTES)])
        ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord(" "))
        starts = np.zeros(len(ends), np.int64)
        starts[1:] = ends[:-1] + 1
        lengths = ends - starts
        if not lengths.all():
            starts, lengths = starts[lengths > 0], lengths[lengths > 0]
        return cls(data, starts, lengths)

    def is_short(self) -> Array:
        """Return whether each chunk is short enough for a ``ChunkIndex``: bool (N,)."""
        return self.lengths <= _BYTES

    def words(self) -> Array:
        """Return the words of each chunk, which are meaningful for short chunks only: uint64 (N, 3)."""
        every = np.ndarray(len(self.data) - _BYTES + 1, f"V{_BYTES}", self.data, strides=(1,))
        words: Array = every[self.starts].view(np.uint64).reshape(-1, 3)
        words |= _FILLINGS.take(self.lengths, axis=0, mode="clip")
        return words

    def texts(self, some: Array) -> list[str]:
        """Return the chunks with these indices as texts."""
        places = expand_slices(self.starts[some], self.lengths[some] + 1)  # each with the space after it
        return self._decoded(np.frombuffer(self.data, np.uint8)[places].tobytes()).split(" ")[:-1]

    def text(self, first: int, last: int) -> str:
        """Return the text from one chunk to another, with one space between chunks."""
        text = self._decoded(self.data[self.starts[first] : self.starts[last] + self.lengths[last]])
        return " ".join(filter(None, text.split(" "))) if "  " in text else text

    @staticmethod
    def _decoded(data: bytes) -> str:
        return data.decode("utf-8", "surrogatepass")


class ChunkIndex:
    """The numbers of short chunks: a hash table with linear probing, which looks up many chunks at once."""

    def __init__(self) -> None:
        self._count = 0
        self._make(8)

    def _make(self, bits: int) -> None:
        self._words = np.zeros((1 << bits, 3), np.uint64)
        self._numbers = np.full(1 << bits, _FREE, np.int64)
        self._shift = np.uint64(64 - bits)
        self._multipliers = np.array([secrets.randbits(64) for _ in range(_BYTES // 4)], np.uint64)

    def numbers(self, words_N3: Array, first: int) -> tuple[Array, Array]:
        """Return the number of each chunk, and the indices of chunks that are new, in the order of their numbers.

        Args:
            words_N3: The words of the chunks.
            first: The number of the first new chunk.

        Returns:
            The numbers, int64 (N,), and the indices, int64 (number of new chunks,).
        """
        self._reserve(len(words_N3) // 4)  # about as many are new in the first batch of real text
        numbers_N = np.empty(len(words_N3), np.int64)
        new = [np.empty(0, np.int64)]
        for start in range(0, len(words_N3), _BLOCK):
            block = words_N3[start : start + _BLOCK]
            self._reserve(len(block))
            numbers_N[start : start + _BLOCK], added = self._find_or_add(block, first)
            first += len(added)
            new.append(added + start)
        return numbers_N, np.concatenate(new)

    def _reserve(self, more: int) -> None:
        """Make the table larger if it could not hold this many more chunks."""
        if 3 * (self._count + more) <= 2 * len(self._numbers):
            return
        used = self._numbers != _FREE
        words, numbers = self._words[used], self._numbers[used]
        self._make((2 * (self._count + more)).bit_length())
        self._count = 0
        _, order = self._find_or_add(words, 0)
        used = self._numbers != _FREE
        self._numbers[used] = numbers[order[self._numbers[used]]]

    def _find_or_add(self, words_N3: Array, first: int) -> tuple[Array, Array]:
        """Do what ``numbers`` does, if the table has room for all chunks."""
        numbers_N = np.empty(len(words_N3), np.int64)
        added = [np.empty(0, np.int64)]
        left = np.arange(len(words_N3))  # the chunks that are not yet found
        # A universal hash function: for 32-bit parts and random multipliers, no text makes many chunks share an entry.
        entries = (words_N3.view(np.uint32).astype(np.uint64) @ self._multipliers >> self._shift).view(np.int64)
        while len(left):
            numbers = self._numbers[entries]
            free = np.flatnonzero(numbers == _FREE)
            if len(free):
                # Of the chunks that come to the same free entry, the last one written gets it; the next round finds the
                # equal ones there.
                self._numbers[entries[free]] = free
                free = free[self._numbers[entries[free]] == free]
                self._numbers[entries[free]] = np.arange(first, first + len(free))
                self._words[entries[free]] = words_N3[left[free]]
                added.append(left[free])
                first += len(free)
                self._count += len(free)
                numbers = self._numbers[entries]
            is_equal = self._words.take(entries, axis=0) == (words_N3 if len(left) == len(words_N3) else words_N3[left])
            is_found = is_equal[:, 0] & is_equal[:, 1] & is_equal[:, 2]
            numbers_N[left[is_found]] = numbers[is_found]
            left, entries = left[~is_found], (entries[~is_found] + 1) & (len(self._numbers) - 1)
        return numbers_N, np.concatenate(added)
