"""Memory that is given back to the system.

Oracle: the kernel's own count of the process's resident memory; and a process that pretends to grow.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.scoring.small import make_model
from xlm.scoring import logprobs
from xlm.scoring.logprobs import MallocTrim
from xlm.scoring.score import score
from xlm.tokenizer.tokenizer import XLMTokenizer

MB = 1024 * 1024
HELD = """
from xlm.scoring.logprobs import MallocTrim, _resident_bytes
watched = MallocTrim()
before = _resident_bytes()
blocks = [bytes([1]) * 1_000_000 for _ in range(100)]
del blocks
held = _resident_bytes()
watched.trim_if_grown()
print(held - before, _resident_bytes() - before)
"""


@pytest.mark.skipif(logprobs.find_malloc_trim() is None, reason="only glibc has the call")
def test_what_was_freed_goes_back_to_the_system() -> None:
    """Told to map nothing by itself and to return nothing by itself, glibc keeps all that is freed."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "1000000000"}
    command = [sys.executable, "-c", HELD]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    held, left = map(int, done.stdout.split())
    assert held > 90_000_000
    assert left < 10_000_000


def test_only_when_there_is_much(monkeypatch: pytest.MonkeyPatch) -> None:
    resident = [100 * MB]
    calls: list[int] = []
    monkeypatch.setattr(logprobs, "find_malloc_trim", lambda: calls.append)
    monkeypatch.setattr(logprobs, "_resident_bytes", lambda: resident[0])
    watched = MallocTrim()
    for now, expected in ((100, 0), (164, 0), (165, 1), (229, 1), (230, 2), (10, 2)):
        resident[0] = now * MB
        watched.trim_if_grown()
        assert len(calls) == expected, now


def test_without_glibc_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "find_malloc_trim", lambda: None)
    monkeypatch.delattr(logprobs, "_resident_bytes")
    MallocTrim().trim_if_grown()


def test_scoring_asks_after_every_batch(monkeypatch: pytest.MonkeyPatch, tokenizer: XLMTokenizer) -> None:
    asked: list[int] = []

    class Watched:
        def trim_if_grown(self) -> None:
            asked.append(1)

    monkeypatch.setattr(logprobs, "MallocTrim", Watched)
    model = make_model(tokenizer.vocab_size)
    score(model, tokenizer, ["The dog .", "A cat .", "the grass"], lang="en", batch_size=1)
    assert len(asked) == 3
