"""Sequences that are longer than the model's positions, and batches of sequences of about one length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xlm.errors import InputError


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of one sequence that is fed at once.

    Attributes:
        sequence: Number of the sequence.
        start: Its first token that is fed.
        end: One past its last token that is fed; the token at ``end`` is the last that is predicted.
        first: The first fed token, counted in the sequence, whose prediction counts; those before it are context.
    """

    sequence: int
    start: int
    end: int
    first: int


def checked_stride(stride: int | None, positions: int) -> int:
    """The stride to use: half of the model's positions when none is given.

    Raises:
        InputError: Not a whole number from 1 to ``positions``.
    """
    if stride is None:
        return max(1, positions // 2)
    if type(stride) is not int or not 1 <= stride <= positions:
        raise InputError(
            "the stride is wrong",
            where="stride",
            found=repr(stride),
            expected=f"from 1 to the model's {positions} positions",
        )
    return stride


def windows_of(sequence: int, predicted: int, *, positions: int, stride: int) -> list[Window]:
    """The windows that predict each token of a sequence, but the opening one, once.

    A sequence that fits is one window. Of a longer one the first window begins at the opening token and fills all
    positions; each next one scores up to ``stride`` tokens more and is filled with what stands before them. So every
    window is full, and a token behind the first window has at least ``positions - stride`` tokens of context besides
    the one right before it.

    Args:
        sequence: Number of the sequence.
        predicted: How many tokens it has beside the opening one, at least 1.
        positions: How many tokens can be fed at once.
        stride: From 1 to ``positions``.
    """
    done = min(predicted, positions)
    windows = [Window(sequence, 0, done, 0)]
    while done < predicted:
        end = min(done + stride, predicted)
        windows.append(Window(sequence, end - positions, end, done))
        done = end
    return windows


def batches_by_length(lengths: Sequence[int], *, batch_tokens: int, batch_size: int | None) -> list[list[int]]:
    """Groups rows of similar length, longest first: what does not fit into memory shows at once.

    Args:
        lengths: Tokens of each row.
        batch_tokens: Most tokens of a batch, padding included; a row that is longer is a batch of its own.
        batch_size: Most rows of a batch; ``None`` for no limit.

    Returns:
        Batches of row numbers; each number once.
    """
    batches: list[list[int]] = []
    longest = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        full = not batches or longest * (len(batches[-1]) + 1) > batch_tokens or len(batches[-1]) == batch_size
        if full:
            batches.append([])
            longest = lengths[row]
        batches[-1].append(row)
    return batches
