"""What the work on many texts at once has in common: arrays that grow, slices of arrays, texts as code points."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class Growing:
    """An array that grows at its end; of each place in it the content stays.

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
        """All that was added; (N,), valid until more is added."""
        return self._array[: self._length]

    def add(self, values: Array) -> int:
        """Adds values at the end; returns the place of the first."""
        first, self._length = self._length, self._length + len(values)
        if self._length > len(self._array):
            larger = np.zeros(2 * self._length, self._array.dtype)
            larger[:first] = self._array[:first]
            self._array = larger
        self._array[first : self._length] = values
        return first


def places_of_slices(starts_N: Array, lengths_N: Array) -> Array:
    """Returns the places of all elements of some slices, one slice after the other: int64 (sum of the lengths,)."""
    ends_N = np.cumsum(lengths_N)
    total = int(ends_N[-1]) if len(ends_N) else 0
    places: Array = np.repeat(starts_N - (ends_N - lengths_N), lengths_N)
    places += np.arange(total)
    return places


def starts_of(lengths_N: Array) -> Array:
    """Returns where slices of these lengths begin that stand one after the other: int64 (N,)."""
    starts: Array = np.cumsum(lengths_N, dtype=np.int64) - lengths_N
    return starts


def codes_of(text: str) -> Array:
    """Returns the code points of a text: uint32 (len(text),)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def text_of(codes: Array) -> str:
    """Returns the text of code points."""
    return codes.astype(np.uint32, copy=False).tobytes().decode("utf-32-le", "surrogatepass")
