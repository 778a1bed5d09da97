"""Groups texts into batches, runs the batches in several processes, and formats tokens or ids as lines."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, TypeVar

from xlm._io.arguments import check_count
from xlm._io.grouping import grouped
from xlm.errors import InputError, XLMError

if TYPE_CHECKING:
    from xlm.tokenizer.tokenizer import XLMTokenizer

Batch = TypeVar("Batch")
Result = TypeVar("Result")

# Batches are large because texts share chunks (text between spaces), and each distinct chunk is divided into words only
# once. Each new chunk takes 500 bytes of memory while its batch is processed.
_BATCH_TEXTS = 1 << 15
_BATCH_CHARACTERS = 1 << 20


def in_batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Return an iterator over texts in batches.

    Raises:
        InputError: ``texts`` is a single str or is not iterable. During iteration: a text is not a str.
    """
    try:
        is_batch = not isinstance(texts, str) and iter(texts) is not None
    except TypeError:  # a 0-dimensional array has __iter__, which raises
        is_batch = False
    if not is_batch:
        found = "a str" if isinstance(texts, str) else type(texts).__name__
        raise InputError("not a batch of texts", where="texts", found=found, expected="a list of str")
    return grouped(map(_checked, texts), len, most=_BATCH_TEXTS, characters=_BATCH_CHARACTERS)


def _checked(text: object) -> str:
    if not isinstance(text, str):
        raise InputError("a text is not a str", where="texts", found=type(text).__name__, expected="str")
    return text


def written_lines(tokenizer: XLMTokenizer, texts: Sequence[str], *, lang: str, output: str) -> list[str]:
    """Return the tokens or ids of each text as one line, without a newline.

    Args:
        tokenizer: The tokenizer.
        texts: The texts, at most a few thousand.
        lang: The language of the texts.
        output: ``"tokens"`` for pieces in ``</w>`` notation, ``"ids"`` for ids with the special tokens.

    Raises:
        InputError: A text cannot be encoded.
        LanguageError: The tokenizer does not have the language.
    """
    if output == "tokens":
        return [" ".join(tokens) for tokens in tokenizer.tokenize_batch(texts, lang)]
    return [" ".join(map(str, ids)) for ids in tokenizer.encode_batch(texts, lang=lang)]


_AHEAD = 3  # batches that are read ahead for each worker
_MOST_WORKERS = 1024
_work: Callable[[Any], Any] | None = None  # what a worker process does with a batch; set when the process starts


def in_order(work: Callable[[Batch], Result], batches: Iterable[Batch], *, workers: int) -> Iterator[Result]:
    """Return an iterator over the results of batches, in order; it reads only a few batches ahead.

    Args:
        work: The function to apply to each batch; it is pickled once for each worker process.
        batches: The batches. They are read as needed, so they can come from a stream.
        workers: The number of processes; 1 means that this process does the work.

    Raises:
        InputError: ``workers`` is not an int from 1 to 1,024.
        XLMError: During iteration: a worker process died.
    """
    check_count(workers=workers, most=_MOST_WORKERS)
    return map(work, batches) if workers == 1 else _in_processes(work, batches, workers)


def _in_processes(work: Callable[[Batch], Result], batches: Iterable[Batch], workers: int) -> Iterator[Result]:
    # Fork on Linux: forked workers start with all modules loaded, and the main module of the caller does not need
    # ``if __name__ == "__main__"``.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    waiting: deque[Future[Result]] = deque()
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(work,)) as pool:
        try:
            for batch in batches:
                with warnings.catch_warnings():
                    # Newer Python versions warn about a fork while other threads exist, such as those of torch. The
                    # fork is harmless: the workers use no lock that these threads hold.
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
                expected="all workers run to the end; the usual cause of a death is that memory runs out",
                remedy="use fewer workers; with 1, the main process does the work",
            ) from error
        finally:
            for future in waiting:
                future.cancel()


def _start(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work
    # The executor ends its workers with SIGTERM. A forked worker inherits the command's handler for SIGTERM, which
    # raises an exception. A worker that is waiting to return a result would catch this exception and wait forever.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _run(batch: Any) -> Any:
    assert _work is not None
    return _work(batch)
