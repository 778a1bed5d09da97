"""Rows of ids, or of pieces, of many texts in two arrays: quick to make, and to hand from one process to another."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from xlm.tokenizer.batch_arrays import Array


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of values.

    Attributes:
        values: All of them, one row after the other; (S,), int32 for ids.
        lengths: Of the rows; int64 (R,).
    """

    values: Array
    lengths: Array

    @classmethod
    def of(cls, rows: Sequence[Sequence[Any]], dtype: str) -> Rows:
        """Returns rows that are given as lists."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        return cls(np.fromiter(chain.from_iterable(rows), np.dtype(dtype), int(lengths.sum())), lengths)

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """Returns the rows of several, at least one, in order."""
        if len(parts) == 1:
            return parts[0]
        return cls(np.concatenate([rows.values for rows in parts]), np.concatenate([rows.lengths for rows in parts]))

    def lists(self, objects: Array | None = None) -> list[list[Any]]:
        """Returns the rows as lists; the garbage collector waits meanwhile, in all threads.

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

    def between(self, first: int, last: int) -> Rows:
        """Returns the rows with a value before and one after each."""
        ends = np.cumsum(self.lengths + 2)
        values = np.empty(len(self.values) + 2 * len(ends), self.values.dtype)
        is_inside = np.ones(len(values), bool)
        is_inside[ends - 1] = is_inside[ends - self.lengths - 2] = False
        values[is_inside] = self.values
        values[ends - self.lengths - 2] = first
        values[ends - 1] = last
        return Rows(values, self.lengths + 2)
