"""Work that several processes share, and what comes of it when one of them is killed.

Oracle: the same work in this process; and for a death, the contract: a named error, no process left, exit status 1.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.tokenizer.small import MERGES, VOCABULARY
from xlm.errors import XLMError
from xlm.tokenizer.batches import in_order
from xlm.tokenizer.tokenizer import XLMTokenizer

DEADLY = 40
needs_kill = pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")


def square_or_die(number: int) -> int:
    if number == DEADLY:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_order_and_batches_are_read_as_they_are_needed(workers: int) -> None:
    read: list[int] = []

    def endless() -> Iterator[int]:
        for number in count(DEADLY + 1):
            read.append(number)
            yield number

    results = in_order(square_or_die, endless(), workers=workers)
    assert [next(results) for _ in range(20)] == [number * number for number in range(DEADLY + 1, DEADLY + 21)]
    assert len(read) < 20 + 4 * workers
    del results
    assert multiprocessing.active_children() == []


@needs_kill
def test_a_worker_that_is_killed_is_a_named_error() -> None:
    found: list[int] = []
    with pytest.raises(XLMError, match="worker process") as caught:
        found.extend(in_order(square_or_die, count(), workers=2))
    # What was done before the death and not yet taken may be lost; what is given is in order and right.
    assert found == [number * number for number in range(len(found))]
    assert len(found) <= DEADLY
    assert caught.value.where == "workers"
    assert "2 workers" in str(caught.value.found)
    assert "fewer workers" in str(caught.value.remedy)
    assert multiprocessing.active_children() == []


@needs_kill
def test_the_tokenizer_names_it_and_goes_on_working() -> None:
    tokenizer = XLMTokenizer(VOCABULARY, MERGES)
    parent = os.getpid()

    class Deadly(str):
        """A text that ends the process that looks at it, unless that is this one."""

        def __reduce__(self) -> tuple[object, ...]:
            return _kill_others, (parent, str(self))

    with pytest.raises(XLMError, match="worker process"):
        tokenizer.encode_batch(["the dog"] * 9000 + [Deadly("the dog")], lang="en", workers=2)
    texts = ["the dog"] * 9000
    assert tokenizer.encode_batch(texts, lang="en", workers=2) == tokenizer.encode_batch(texts, lang="en")


def _kill_others(parent: int, text: str) -> str:
    if os.getpid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    return text


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_command_ends_with_1_when_a_worker_is_killed(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    XLMTokenizer(VOCABULARY, MERGES).save_pretrained(directory)
    command = [sys.executable, "-m", "xlm", "tokenize", str(directory), "--lang", "en", "--workers", "2"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        try:
            while process.poll() is None:
                process.stdin.write("the dog\n" * 100_000)
                process.stdin.flush()
                if workers := children.read_text().split():
                    os.kill(int(workers[0]), signal.SIGKILL)
        except (BrokenPipeError, FileNotFoundError, ProcessLookupError):
            pass  # it has ended
        process.stdin.close()
        message = process.stderr.read()
    assert process.returncode == 1, message
    assert "worker process" in message
    assert "Traceback" not in message
