"""Items in lists of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def grouped(
    items: Iterable[Item], *, most: int, characters: int, length: Callable[[Item], int]
) -> Iterator[list[Item]]:
    """Yield items in lists, each ended by the item that fills it.

    Args:
        items: Read as they are needed.
        most: Items of a full list.
        characters: Or characters of a full list.
        length: Returns the number of characters of an item.
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
