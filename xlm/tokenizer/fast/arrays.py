"""Arrays for many texts at once: growable ones, rows of different lengths, slices, and texts as code points."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class GrowableArray:
    """An array that grows at its end; what is in it stays in place.

    Args:
        dtype: Of the array.
    """

    def __init__(self, dtype: Any) -> None:
        self._array = np.zeros(1 << 10, dtype)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def values(self) -> Array:
        """All values, (N,); valid until more are added."""
        return self._array[: self._length]

    def add(self, values: Array) -> int:
        """Add values at the end, and return the place of the first."""
        first, self._length = self._length, self._length + len(values)
        if self._length > len(self._array):
            larger = np.zeros(2 * self._length, self._array.dtype)
            larger[:first] = self._array[:first]
            self._array = larger
        self._array[first : self._length] = values
        return first


def expand_slices(starts_N: Array, lengths_N: Array) -> Array:
    """Return the indices of all elements of slices, one slice after the other: int64 (sum of lengths_N,)."""
    ends_N = np.cumsum(lengths_N)
    total = int(ends_N[-1]) if len(ends_N) else 0
    places: Array = np.repeat(starts_N - (ends_N - lengths_N), lengths_N)
    places += np.arange(total)
    return places


def starts_of(lengths_N: Array) -> Array:
    """Return the starts of slices of these lengths that stand one after the other: int64 (N,)."""
    starts: Array = np.cumsum(lengths_N, dtype=np.int64) - lengths_N
    return starts


def codes_of(text: str) -> Array:
    """Return the code points of a text: uint32 (len(text),)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def text_of(codes: Array) -> str:
    """Return the text of code points."""
    return codes.astype(np.uint32, copy=False).tobytes().decode("utf-32-le", "surrogatepass")


@dataclass(frozen=True, slots=True)
class RaggedArray:
    """Rows of different lengths in two arrays: quick to make, and to hand from one process to another.

    Attributes:
        values: All of them, one row after the other; (S,), int32 for ids.
        lengths: Of the rows; int64 (R,).
    """

    values: Array
    lengths: Array

    @classmethod
    def of(cls, rows: Sequence[Sequence[Any]], dtype: str) -> RaggedArray:
        """Return rows that are given as lists."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        return cls(np.fromiter(chain.from_iterable(rows), np.dtype(dtype), int(lengths.sum())), lengths)

    @classmethod
    def joined(cls, parts: Sequence[RaggedArray]) -> RaggedArray:
        """Return the rows of several, at least one, in order."""
        if len(parts) == 1:
            return parts[0]
        return cls(np.concatenate([rows.values for rows in parts]), np.concatenate([rows.lengths for rows in parts]))

    def lists(self, objects: Array | None = None) -> list[list[Any]]:
        """Return the rows as lists; the garbage collector waits meanwhile, in all threads.

        Args:
            objects: What to put for each value, by its number; None for the value itself.
        """
        values = (self.values if objects is None else objects[self.values]).tolist()
        ends = np.cumsum(self.lengths).tolist()
        # Lists of numbers and texts hold no garbage, but so many new ones make it look through all objects there are.
        collects = gc.isenabled()
        if collects:  # else another thread may be here, and will start it again: then it must not be stopped anew
            gc.disable()
        try:
            return [values[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        finally:
            if collects:
                gc.enable()

    def between(self, first: int, last: int) -> RaggedArray:
        """Return the rows with a value before and one after each."""
        ends = np.cumsum(self.lengths + 2)
        values = np.empty(len(self.values) + 2 * len(ends), self.values.dtype)
        is_inside = np.ones(len(values), bool)
        is_inside[ends - 1] = is_inside[ends - self.lengths - 2] = False
        values[is_inside] = self.values
        values[ends - self.lengths - 2] = first
        values[ends - 1] = last
        return RaggedArray(values, self.lengths + 2)
