"""Ids that come from outside, as plain ints of the vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, SupportsIndex

from xlm.errors import InputError
from xlm.tokenizer.text_files import shown

Ids = int | Iterable[SupportsIndex]
"""One id, or a sequence, array or tensor (T,) of them."""


def checked_ids(ids: Ids, *, vocab_size: int) -> int | list[int]:
    """Returns the ids as ints: one for a single id (a 0-dimensional tensor too), else a list.

    Raises:
        InputError: Something that is not an integer from 0 to ``vocab_size - 1``.
    """
    # Arrays and tensors become plain numbers at once: one element at a time, each would be a tensor.
    values: Any = ids.tolist() if hasattr(ids, "tolist") else ids
    if isinstance(values, Iterable) and not isinstance(values, (str, bytes)):
        return [_checked(value, vocab_size) for value in values]
    return _checked(values, vocab_size)


def _checked(value: object, vocab_size: int) -> int:
    # looking up the type of a plain int first takes a twentieth of the time of asking for the protocol
    if type(value) is int or (isinstance(value, SupportsIndex) and not isinstance(value, bool)):
        index = value.__index__()
        if 0 <= index < vocab_size:
            return index
    raise InputError(
        "This is not an id of the vocabulary",
        where="ids",
        found=shown(value),
        expected=f"an integer from 0 to {vocab_size - 1}",
    )
