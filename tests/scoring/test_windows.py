"""Windows of long sequences, and batches of one length.

Oracle: what windows and batches are for, checked token by token and row by row: every token predicted once, no window
longer than the positions, no context shorter than the stride allows, no batch larger than its limits.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlm.errors import InputError
from xlm.scoring.logprobs import batches_by_length, checked_stride, windows_of


@given(positions=st.integers(1, 30), predicted=st.integers(1, 200), data=st.data())
def test_each_token_once_in_full_windows(positions: int, predicted: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, positions))
    windows = windows_of(3, predicted, positions=positions, stride=stride)
    assert [place for w in windows for place in range(w.first, w.end)] == list(range(predicted))
    assert all(w.sequence == 3 for w in windows)
    assert windows[0].start == 0
    for window in windows:
        assert window.end - window.start == min(predicted, positions)
        assert window.start <= window.first
    for window in windows[1:]:
        assert window.end - window.first <= stride
        assert window.first - window.start >= positions - stride
    # No fewer windows would do, and only the last scores less than a whole stride.
    assert all(w.end - w.first == stride for w in windows[1:-1])


def test_a_stride_of_one_gives_every_token_all_the_context_there_can_be() -> None:
    windows = windows_of(0, 20, positions=8, stride=1)
    assert [(w.start, w.end, w.first) for w in windows] == [
        (0, 8, 0),
        *((end - 8, end, end - 1) for end in range(9, 21)),
    ]


@pytest.mark.parametrize(("positions", "stride"), [(512, 256), (5, 2), (1, 1)])
def test_the_default_stride_is_half(positions: int, stride: int) -> None:
    assert checked_stride(None, positions) == stride


@pytest.mark.parametrize("stride", [0, -1, 9, True, 2.0, "2"])
def test_a_wrong_stride_is_refused(stride: object) -> None:
    with pytest.raises(InputError, match="stride"):
        checked_stride(stride, 8)  # type: ignore[arg-type]


@given(
    lengths=st.lists(st.integers(1, 40)),
    batch_tokens=st.integers(1, 200),
    batch_size=st.none() | st.integers(1, 5),
)
def test_batches_hold_each_row_once_within_the_limits(
    lengths: list[int], batch_tokens: int, batch_size: int | None
) -> None:
    batches = batches_by_length(lengths, batch_tokens=batch_tokens, batch_size=batch_size)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[row] for row in batch)
        assert len(batch) == 1 or longest * len(batch) <= batch_tokens
        assert batch_size is None or len(batch) <= batch_size
    in_order = [lengths[row] for batch in batches for row in batch]
    assert in_order == sorted(lengths, reverse=True)


def test_rows_of_mixed_lengths_are_hardly_padded() -> None:
    lengths = [5 + 7 * i % 61 for i in range(4096)]
    batches = batches_by_length(lengths, batch_tokens=2048, batch_size=None)
    fed = sum(max(lengths[row] for row in batch) * len(batch) for batch in batches)
    assert fed < 1.02 * sum(lengths)
