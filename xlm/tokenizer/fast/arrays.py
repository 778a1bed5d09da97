"""Helpers for many texts in numpy arrays: growable arrays, ragged arrays, slices, code points."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class GrowableArray:
    """An array to which values can be appended.

    Args:
        dtype: The type of the values.
    """

    def __init__(self, dtype: Any) -> None:
        self._array = np.zeros(1 << 10, dtype)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def values(self) -> Array:
        """All values, (N,). The result is valid until more values are appended."""
        return self._array[: self._length]

    def append(self, values: Array) -> int:
        """Append values and return the index of the first."""
        first, self._length = self._length, self._length + len(values)
        if self._length > len(self._array):
            larger = np.zeros(2 * self._length, self._array.dtype)
            larger[:first] = self._array[:first]
            self._array = larger
        self._array[first : self._length] = values
        return first


class CharacterTable:
    """A number for each character, computed when the character first occurs.

    Args:
        compute: Returns the number of a character, never 0.
    """

    def __init__(self, compute: Callable[[str], int]) -> None:
        self._compute = compute
        self._values = np.zeros(sys.maxunicode + 1, np.uint32)  # takes no memory until it is written

    def __call__(self, codes: Array) -> Array:
        """Return the numbers of code points: uint32 (N,)."""
        values: Array = self._values[codes]
        if not values.all():
            is_new = np.zeros(int(codes.max()) + 1, bool)
            is_new[codes[values == 0]] = True
            for code in np.flatnonzero(is_new).tolist():
                self._values[code] = self._compute(chr(code))
            values = self._values[codes]
        return values


def expand_slices(starts_N: Array, lengths_N: Array) -> Array:
    """Return the indices of all elements that slices cover, slice by slice: int64 (sum of lengths_N,)."""
    ends_N = np.cumsum(lengths_N)
    total = int(ends_N[-1]) if len(ends_N) else 0
    indices: Array = np.repeat(starts_N - (ends_N - lengths_N), lengths_N)
    indices += np.arange(total)
    return indices


def starts_of(lengths_N: Array) -> Array:
    """Return where each of N adjacent slices starts, given their lengths; the first starts at 0: int64 (N,)."""
    starts: Array = np.cumsum(lengths_N, dtype=np.int64) - lengths_N
    return starts


def codes_of(text: str) -> Array:
    """Return the code points of a text: uint32 (len(text),)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def text_of(codes: Array) -> str:
    """Return the text that consists of these code points."""
    return codes.astype(np.uint32, copy=False).tobytes().decode("utf-32-le", "surrogatepass")


@dataclass(frozen=True, slots=True)
class RaggedArray:
    """Rows of different lengths in two arrays, which are fast to build and to send to another process.

    Attributes:
        values: The values of all rows, row by row; (S,), int32 for ids.
        lengths: The length of each row; int64 (R,).
    """

    values: Array
    lengths: Array

    @classmethod
    def of(cls, rows: Sequence[Sequence[Any]], dtype: str) -> RaggedArray:
        """Return rows as a ragged array."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        return cls(np.fromiter(chain.from_iterable(rows), np.dtype(dtype), int(lengths.sum())), lengths)

    @classmethod
    def joined(cls, parts: Sequence[RaggedArray]) -> RaggedArray:
        """Return one ragged array with the rows of several ragged arrays, in order; at least one array is required."""
        if len(parts) == 1:
            return parts[0]
        return cls(np.concatenate([rows.values for rows in parts]), np.concatenate([rows.lengths for rows in parts]))

    def lists(self, objects: Array | None = None) -> list[list[Any]]:
        """Return the rows as lists; during the call, the garbage collector is off in all threads.

        Args:
            objects: If given, each value is an index into this array, and the lists hold the objects at these indices.
        """
        values = (self.values if objects is None else objects[self.values]).tolist()
        ends = np.cumsum(self.lengths).tolist()
        # Lists of numbers or strs form no cycles, but creating many lists makes the collector scan all objects.
        collects = gc.isenabled()
        if collects:  # if it is off already, another thread may be in this method and will turn it back on
            gc.disable()
        try:
            return [values[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        finally:
            if collects:
                gc.enable()

    def between(self, first: int | None, last: int) -> RaggedArray:
        """Return the rows with ``first`` added before each row, unless it is None, and ``last`` after each row."""
        lengths = self.lengths + (1 if first is None else 2)
        ends = np.cumsum(lengths)
        added = [(ends - 1, last), *([] if first is None else [(ends - lengths, first)])]
        values = np.empty(int(lengths.sum()), self.values.dtype)
        is_inside = np.ones(len(values), bool)
        for places, value in added:
            is_inside[places] = False
            values[places] = value
        values[is_inside] = self.values
        return RaggedArray(values, lengths)
