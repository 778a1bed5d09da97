"""The original's stream layout: all sentences of a language as one sequence, cut into rows and windows.

With B rows and windows of W tokens, a sequence S has ``n = ceil(len(S) / (B * W))`` windows. In front of S stand as
many ``</s>`` as fill ``B * n * W`` places; that is cut into B rows, and one more ``</s>`` is put before each row.
Window i is columns i * W to (i + 1) * W of every row, so that the last column is never used.

Nothing of this is laid out in memory: a window is B slices of the sequence.

Source: the original's ``StreamDataset`` in ``src/data/dataset.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from xlm.errors import InputError

Ids = np.ndarray[Any, np.dtype[np.int64]]


class Sequence(Protocol):
    """Ids on disk or in memory, each sentence with its closing ``</s>``."""

    def __len__(self) -> int: ...

    def slice(self, begin: int, end: int) -> Ids:
        """Return the ids from ``begin`` to ``end`` - 1 as int64; 0 <= begin <= end <= len."""
        ...


class ArraySequence:
    """A sequence in memory.

    Args:
        ids: (N,) whole numbers.
    """

    def __init__(self, ids: np.ndarray[Any, Any]) -> None:
        self._ids = ids

    def __len__(self) -> int:
        return len(self._ids)

    def slice(self, begin: int, end: int) -> Ids:
        """Return the ids from ``begin`` to ``end`` - 1."""
        return self._ids[begin:end].astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A sequence in windows.

    Args:
        sequence: The ids.
        rows: Rows B of a window.
        width: Tokens W of a row; the first of them is given, the others are predicted.
        eos_id: Id of ``</s>``.

    Raises:
        InputError: There is nothing in the sequence, or the sizes make no window.
    """

    sequence: Sequence
    rows: int
    width: int
    eos_id: int = 1

    def __post_init__(self) -> None:
        if len(self.sequence) == 0:
            raise InputError("there is no text in the stream", where="the stream", found="0 tokens")
        if self.rows < 1 or self.width < 2:
            raise InputError(
                "a stream cannot be cut like that",
                where="rows, width",
                found=f"{self.rows} rows of {self.width} tokens",
                expected="at least 1 row of 2 tokens",
            )

    def __len__(self) -> int:
        """Return the number of windows n."""
        return -(-len(self.sequence) // (self.rows * self.width))

    def window(self, index: int, first_row: int = 0, rows: int | None = None) -> Ids:
        """Return one window, or some of its rows.

        Args:
            index: Its number, from 0 to n - 1.
            first_row: The first row that is wanted.
            rows: How many; None for all that follow.

        Returns:
            (rows, W) int64.
        """
        assert 0 <= index < len(self), index
        last = self.rows if rows is None else first_row + rows
        row_length = len(self) * self.width
        before = row_length * self.rows - len(self.sequence)  # how many </s> stand in front of the sequence
        window = np.full((last - first_row, self.width), self.eos_id, np.int64)
        for place, row in enumerate(range(first_row, last)):
            begin = row * row_length + index * self.width - 1 - before  # of the window's first token in the sequence
            end = begin + self.width
            if index == 0:
                begin += 1  # the </s> before the row
            begin = max(begin, 0)
            if begin < end:
                window[place, self.width - (end - begin) :] = self.sequence.slice(begin, end)
        return window
