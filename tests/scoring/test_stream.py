"""The stream layout.

Oracle: the layout as the facts about the original word it, laid out in memory in plain Python.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlm.errors import InputError
from xlm.scoring.stream import ArraySequence, Stream


def _by_the_facts(ids: list[int], B: int, W: int) -> list[list[list[int]]]:
    n = -(-len(ids) // (B * W))
    buffer = [1] * (n * W * B - len(ids)) + ids
    rows = [[1, *buffer[row * n * W : (row + 1) * n * W]] for row in range(B)]
    return [[row[i * W : (i + 1) * W] for row in rows] for i in range(n)]


def _stream(ids: list[int], B: int, W: int) -> Stream:
    return Stream(sequence=ArraySequence(np.array(ids, np.uint16)), rows=B, width=W)


@given(st.integers(1, 200), st.integers(1, 6), st.integers(2, 9))
def test_every_window(tokens: int, B: int, W: int) -> None:
    ids = list(range(10, 10 + tokens))
    stream = _stream(ids, B, W)
    assert [stream.window(i).tolist() for i in range(len(stream))] == _by_the_facts(ids, B, W)


@given(st.integers(1, 100), st.data())
def test_some_rows_of_a_window(tokens: int, data: st.DataObject) -> None:
    stream = _stream(list(range(10, 10 + tokens)), 5, 4)
    first = data.draw(st.integers(0, 4))
    rows = data.draw(st.integers(1, 5 - first))
    index = data.draw(st.integers(0, len(stream) - 1))
    assert stream.window(index, first, rows).tolist() == stream.window(index)[first : first + rows].tolist()


def test_one_worked_example() -> None:
    """5 tokens, 2 rows, windows of 2: n = 2, 8 places, 3 of them filled; the last of each row is in no window."""
    stream = _stream([11, 12, 13, 14, 15], 2, 2)
    assert len(stream) == 2
    assert stream.window(0).tolist() == [[1, 1], [1, 12]]
    assert stream.window(1).tolist() == [[1, 1], [13, 14]]


def test_what_cannot_be_cut() -> None:
    with pytest.raises(InputError, match="no text"):
        _stream([], 1, 2)
    with pytest.raises(InputError, match="Invalid size of windows"):
        _stream([1], 0, 2)
    with pytest.raises(InputError, match="Invalid size of windows"):
        _stream([1], 1, 1)
