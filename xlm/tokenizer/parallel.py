"""Work on batches in several processes: in order, as a stream, never far ahead of who takes the results."""

from __future__ import annotations

import multiprocessing
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from xlm._io.arguments import shown
from xlm.errors import InputError, XLMError

Batch = TypeVar("Batch")
Result = TypeVar("Result")

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
