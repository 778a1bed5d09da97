"""Texts in batches: so many at a time that what they share is worked out once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from xlm.errors import InputError

Item = TypeVar("Item")

_TEXTS = 1 << 15
_CHARACTERS = 1 << 21
"""Of a batch, at least: enough that what the texts share is worked out once, and little beside other memory."""
_BLOCK = 64  # texts that are looked at together


def in_batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Returns an iterator over texts in batches.

    Raises:
        InputError: ``texts`` is a single one, or nothing that holds texts; later, something that is not a str.
    """
    try:
        one = isinstance(texts, str) or not iter(texts)
    except TypeError:  # an array without dimensions says that it is iterable
        one = True
    if one:
        found = "a str" if isinstance(texts, str) else type(texts).__name__
        raise InputError("A single text is no batch", where="texts", found=found, expected="a list of str")
    # no look at each text of a list: a third of the time
    return (
        _in_batches_of_blocks(texts)
        if isinstance(texts, (list, tuple))
        else grouped(map(_checked, texts), most=_TEXTS, characters=_CHARACTERS, length=len)
    )


def grouped(
    items: Iterable[Item], *, most: int, characters: int, length: Callable[[Item], int]
) -> Iterator[list[Item]]:
    """Yields items in lists, each ended by the item that fills it.

    Args:
        items: Read as they are needed.
        most: Items of a full list.
        characters: Or characters of a full list.
        length: Says how many characters an item has.
    """
    group: list[Item] = []
    so_far = 0
    for item in items:
        group.append(item)
        so_far += length(item)
        if len(group) >= most or so_far >= characters:
            yield group
            group, so_far = [], 0
    if group:
        yield group


def _in_batches_of_blocks(texts: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for start in range(0, len(texts), _BLOCK):
        block = texts[start : start + _BLOCK]
        if set(map(type, block)) != {str}:
            for text in block:
                _checked(text)
        batch += block
        characters += sum(map(len, block))
        if len(batch) >= _TEXTS or characters >= _CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _checked(text: object) -> str:
    if not isinstance(text, str):
        raise InputError("The text is not a str", where="texts", found=type(text).__name__, expected="str")
    return text
