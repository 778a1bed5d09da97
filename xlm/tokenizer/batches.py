"""Texts in batches, and work on batches in several processes."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from xlm._io.arguments import shown
from xlm.errors import InputError, XLMError

Item = TypeVar("Item")
Batch = TypeVar("Batch")
Result = TypeVar("Result")

_TEXTS = 1 << 15
_CHARACTERS = 1 << 20
"""The size of a batch: large enough that the chunks that its texts share are worked out once, and little memory."""
_BLOCK = 64  # texts that are checked together


def in_batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Return an iterator over texts in batches.

    Raises:
        InputError: ``texts`` is a single str or not iterable; while batches are taken, a text is not a str.
    """
    try:
        one = isinstance(texts, str) or not iter(texts)
    except TypeError:  # a 0-dimensional array claims to be iterable
        one = True
    if one:
        found = "a str" if isinstance(texts, str) else type(texts).__name__
        raise InputError("not a batch of texts", where="texts", found=found, expected="a list of str")
    # Checking a list by blocks takes a third of the time.
    return (
        _in_batches_of_blocks(texts)
        if isinstance(texts, (list, tuple))
        else grouped(map(_checked, texts), most=_TEXTS, characters=_CHARACTERS, length=len)
    )


def grouped(
    items: Iterable[Item], *, most: int, characters: int, length: Callable[[Item], int]
) -> Iterator[list[Item]]:
    """Yield items in lists; an item that fills its list ends it.

    Args:
        items: Read as needed.
        most: The number of items that fills a list.
        characters: The number of characters that fills a list.
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
        raise InputError("a text is not a str", where="texts", found=type(text).__name__, expected="str")
    return text


_AHEAD = 3
"""How many batches for each worker are read before the first of them is done."""

_MOST_WORKERS = 1024

_work: Callable[[Any], Any] | None = None
"""The work of a worker process; set once, when it starts."""


def in_order(work: Callable[[Batch], Result], batches: Iterable[Batch], *, workers: int) -> Iterator[Result]:
    """Yield the result of each batch, in order, never reading far ahead of the caller.

    Args:
        work: What to do with a batch; with several workers it is pickled, once for each of them.
        batches: Read as needed, so that they may come from a stream.
        workers: The number of processes; 1 is this process alone.

    Raises:
        InputError: ``workers`` is not an int from 1 to 1,024.
        XLMError: A worker process died; raised while results are taken.
    """
    if type(workers) is not int or not 1 <= workers <= _MOST_WORKERS:
        raise InputError(
            "invalid number of workers",
            where="workers",
            found=shown(workers),
            expected=f"an int from 1 to {_MOST_WORKERS:,}",
        )
    return map(work, batches) if workers == 1 else _in_processes(work, batches, workers)


def _in_processes(work: Callable[[Batch], Result], batches: Iterable[Batch], workers: int) -> Iterator[Result]:
    # Forked workers have all modules at once, and the caller's main module needs no guard.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    waiting: deque[Future[Result]] = deque()
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(work,)) as pool:
        try:
            for batch in batches:
                with warnings.catch_warnings():
                    # Newer Pythons warn of threads, such as torch's: the workers use nothing that these hold.
                    warnings.simplefilter("ignore", DeprecationWarning)
                    waiting.append(pool.submit(_run, batch))
                if len(waiting) >= _AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise XLMError(
                "a worker process died",
                where="workers",
                found=f"{workers} workers, one of them gone",
                expected="workers that live to the end; they most often die when memory runs out",
                remedy="use fewer workers, or 1, which works in this process",
            ) from error
        finally:
            for future in waiting:
                future.cancel()


def _start(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work
    # The executor ends its workers by this signal. The command's handler, which a fork inherits, raises an exception; a
    # worker that waits to hand over a result would catch that, and wait forever.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _run(batch: Any) -> Any:
    assert _work is not None
    return _work(batch)
