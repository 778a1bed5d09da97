"""A function that groups items into lists of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def grouped(
    items: Iterable[Item], length: Callable[[Item], int], *, most: int, characters: int
) -> Iterator[list[Item]]:
    """Yield lists of consecutive items; each list ends with the item that fills it.

    Args:
        items: The items; they are read as needed.
        length: Returns the number of characters of an item.
        most: Number of items at which a list is full.
        characters: Number of characters at which a list is full.
    """
    group: list[Item] = []
    total = 0
    for item in items:
        group.append(item)
        total += length(item)
        if len(group) >= most or total >= characters:
            yield group
            group, total = [], 0
    if group:
        yield group
