"""The original's stream layout: all sentences of a language as one sequence, cut into rows and windows.

With B rows and windows of W tokens, a sequence S has ``n = ceil(len(S) / (B * W))`` windows. S is padded in front with
``</s>`` to a length of ``B * n * W`` and cut into B rows. Each row gets one more ``</s>`` in front. Window i holds the
columns from i * W to (i + 1) * W - 1 of every row, so the last column is never used.

This layout is never built in memory: a window is B slices of the sequence.

Source: the original's ``StreamDataset`` in ``src/data/dataset.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from xlm.errors import InputError

Ids = np.ndarray[Any, np.dtype[np.int64]]


class Sequence(Protocol):
    """Ids on disk or in memory, where each sentence ends with ``</s>``."""

    def __len__(self) -> int: ...

    def slice(self, begin: int, end: int) -> Ids:
        """Return the ids from ``begin`` to ``end`` - 1 as int64; 0 <= begin <= end <= len."""
        ...


class ArraySequence:
    """A sequence in memory.

    Args:
        ids: (N,) integers.
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
        rows: Number B of rows in a window.
        width: Number W of tokens in a row. The first token is given, the others are predicted.
        eos_id: Id of ``</s>``.

    Raises:
        InputError: The sequence is empty, or a window has no row or fewer than two tokens in a row.
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
                "invalid size of windows",
                where="rows, width",
                found=f"{self.rows} rows of {self.width} tokens",
                expected="at least 1 row of 2 tokens",
            )

    def __len__(self) -> int:
        """Return the number n of windows."""
        return -(-len(self.sequence) // (self.rows * self.width))

    def window(self, index: int, first_row: int = 0, rows: int | None = None) -> Ids:
        """Return one window, or some of its rows.

        Args:
            index: Index of the window, from 0 to n - 1.
            first_row: The first row to return.
            rows: Number of rows to return; ``None`` for all rows from ``first_row`` on.

        Returns:
            (rows, W) int64.
        """
        assert 0 <= index < len(self), index
        last = self.rows if rows is None else first_row + rows
        row_length = len(self) * self.width
        before = row_length * self.rows - len(self.sequence)  # number of </s> in front of the sequence
        window = np.full((last - first_row, self.width), self.eos_id, np.int64)
        for position, row in enumerate(range(first_row, last)):
            begin = row * row_length + index * self.width - 1 - before  # where the window begins in the sequence
            end = begin + self.width
            if index == 0:
                begin += 1  # the window's first token is the </s> before the row
            begin = max(begin, 0)
            if begin < end:
                window[position, self.width - (end - begin) :] = self.sequence.slice(begin, end)
        return window
