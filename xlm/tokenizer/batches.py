"""Texts in batches, and work on batches in several processes."""

from __future__ import annotations

import multiprocessing
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from xlm._arguments import shown
from xlm.errors import InputError, XLMError

Item = TypeVar("Item")
Batch = TypeVar("Batch")
Result = TypeVar("Result")

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


_AHEAD = 3
"""Batches a worker that are read before the first of them is done."""

_MOST_WORKERS = 1024

_work: Callable[[Any], Any] | None = None
"""What a worker process does; set once, when it starts."""


def in_order(work: Callable[[Batch], Result], batches: Iterable[Batch], *, workers: int) -> Iterator[Result]:
    """Yields the result of each batch, in order.

    Args:
        work: What to do with a batch; with several workers it is pickled, once for each of them.
        batches: Read as they are needed, so that they may come from a stream.
        workers: How many processes work; with 1 it is this one.

    Raises:
        InputError: No number of workers above 0, or more than any machine should start.
        XLMError: A worker process ended before its work; while results are taken.
    """
    if type(workers) is not int or not 1 <= workers <= _MOST_WORKERS:
        raise InputError(
            "The number of workers is wrong",
            where="workers",
            found=shown(workers),
            expected=f"a whole number from 1 to {_MOST_WORKERS:,}",
        )
    return map(work, batches) if workers == 1 else _in_processes(work, batches, workers)


def _in_processes(work: Callable[[Batch], Result], batches: Iterable[Batch], workers: int) -> Iterator[Result]:
    # Forked workers have the interpreter and its modules at once, and need no guard in the main module of a program.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    waiting: deque[Future[Result]] = deque()
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(work,)) as pool:
        try:
            for batch in batches:
                with warnings.catch_warnings():
                    # Newer Pythons warn of threads, such as those of torch: the workers use nothing that they hold.
                    warnings.simplefilter("ignore", DeprecationWarning)
                    waiting.append(pool.submit(_run, batch))
                if len(waiting) >= _AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise XLMError(
                "a worker process ended before its work was done",
                where="workers",
                found=f"{workers} workers, of which one is gone without a result",
                expected="workers that stay to the end; what kills them is most often that memory ran out",
                remedy="take fewer workers, or one, which works in this process",
            ) from error
        finally:
            for future in waiting:
                future.cancel()


def _start(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work


def _run(batch: Any) -> Any:
    assert _work is not None
    return _work(batch)
