"""Libraries in processes of their own, measured in turn.

Two libraries in one process disturb each other. When they share OpenMP's runtime, it counts the idle threads of one as
busy, and then puts the threads of the other to sleep after each product. One row of the published model in int8 took
6.8 ms a token in such a process, and 4.6 ms in its own.
"""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xlm.errors import XLMError

if TYPE_CHECKING:
    from typing_extensions import Self

Work = Callable[..., Any]


class Engine:
    """A library with a model, in a process of its own; a context manager that ends the process.

    Args:
        library: Module to import before memory is measured.
        opener: Function of a module. It opens the model and returns the work to measure.
        arguments: Arguments of ``opener``.
    """

    def __init__(self, library: str, opener: Callable[..., Work], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, connection = context.Pipe()
        self._process = context.Process(target=_serve, args=(connection, library, opener, arguments), daemon=True)
        self._process.start()
        connection.close()
        self._receive()

    def run(self, *arguments: object) -> tuple[float, Any]:
        """Call the work, and return the seconds that it took and its result.

        Raises:
            XLMError: The work failed, or the process ended.
        """
        self._connection.send(arguments)
        seconds, result = self._receive()
        return seconds, result

    def memory(self) -> float:
        """Return the memory in MB beyond that of the process with its imports, without pages of mapped files."""
        self._connection.send(None)
        megabytes: float = self._receive()
        return megabytes

    def _receive(self) -> Any:
        try:
            answer = self._connection.recv()
        except EOFError as error:
            raise XLMError("the process of a benchmark ended", where="python -m benchmarks") from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # CTranslate2 may not end by itself
        self._process.join()
        self._connection.close()


def _serve(connection: Connection, library: str, opener: Callable[..., Work], arguments: Sequence[Any]) -> None:
    from benchmarks.hardware import timed

    try:
        importlib.import_module(library)
        before = process_mb("RssAnon")
        work = opener(*arguments)
        connection.send(None)
        while True:
            request = connection.recv()
            answer = process_mb("RssAnon") - before if request is None else timed(partial(work, *request))
            connection.send(answer)
    except EOFError:  # the parent ended
        return
    except Exception as error:
        connection.send(
            XLMError("a measurement failed", where=opener.__name__, found=f"{type(error).__name__}: {error}")
        )


def process_mb(kind: str) -> float:
    """Return the memory of this process in MB, of a kind in Linux's ``/proc/self/status``; NaN on other systems."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return float("nan")
    return next((int(line.split()[1]) / 1e3 for line in lines if line.startswith(kind)), float("nan"))


def in_turn(
    works: Mapping[str, Callable[[], tuple[float, Any]]], rounds: int
) -> tuple[dict[str, tuple[float, ...]], dict[str, Any]]:
    """Run everything in turn, once a round.

    Args:
        works: For each name, a function that returns a figure of one run, and its result.
        rounds: Number of rounds; one more before them is a warm-up.

    Returns:
        The figures of each round, and the last results, by name.
    """
    figures: dict[str, list[float]] = {name: [] for name in works}
    results: dict[str, Any] = {}
    for round_ in range(rounds + 1):
        for name, work in works.items():
            figure, results[name] = work()
            if round_ > 0:
                figures[name].append(figure)
    return {name: tuple(values) for name, values in figures.items()}, results
