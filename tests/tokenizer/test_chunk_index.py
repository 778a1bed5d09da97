"""The table of chunks. Oracle: ``str.split`` and a dict."""

from __future__ import annotations

import itertools
import random
import time

import numpy as np
import pytest

from xlm.tokenizer.fast.chunk_index import ChunkIndex, Chunks

CHARACTERS = "ab\0\x1fß\u00ff\u0416中\U0001f600\ud800\n\u2028 "


def random_text(seed: int) -> str:
    rng = random.Random(seed)
    return "".join(rng.choices(CHARACTERS, [9, 9, *[1] * (len(CHARACTERS) - 3), 6], k=rng.randrange(3000)))


@pytest.mark.parametrize("seed", range(20))
def test_chunks_are_those_of_split(seed: int) -> None:
    text = random_text(seed)
    expected = [chunk for chunk in text.split(" ") if chunk]
    chunks = Chunks.of(text)
    assert chunks.texts(np.arange(len(chunks.starts))) == expected
    is_short = [len(chunk.encode("utf-8", "surrogatepass")) <= 24 for chunk in expected]
    assert chunks.is_short().tolist() == is_short
    words = {tuple(words): chunk for words, chunk, short in zip(chunks.words().tolist(), expected, is_short) if short}  # noqa: B905
    assert len(words) == len(set(words.values())) == len({c for c, s in zip(expected, is_short, strict=True) if s})
    for first in range(0, len(expected), 7):
        last = min(first + seed, len(expected) - 1)
        assert chunks.text(first, last) == " ".join(expected[first : last + 1])


def test_numbers_are_those_of_a_dict() -> None:
    rng = random.Random(1)
    index, expected = ChunkIndex(), dict[str, int]()
    first = 0
    for round_number, distinct in enumerate([1, 10, 300, 20_000, 100_000, 100_000]):
        # Many that differ in one bit or in their length only, and many that occur several times.
        some = [f"{rng.randrange(distinct):b}" + "x" * rng.randrange(7) for _ in range(40_000 if round_number else 3)]
        chunks = Chunks.of("  ".join(some))
        numbers, new = index.numbers(chunks.words(), first)
        for number, place in enumerate(new.tolist(), start=first):
            assert expected.setdefault(some[place], number) == number
        first += len(new)
        assert numbers.tolist() == [expected[chunk] for chunk in some]
    assert first == len(expected) > 1 << 16


def test_no_chunks() -> None:
    chunks = Chunks.of("   ")
    numbers, new = ChunkIndex().numbers(chunks.words(), 0)
    assert len(numbers) == len(new) == 0
    assert chunks.texts(new) == []


def test_chunks_that_differ_in_few_bytes_take_no_longer() -> None:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    alike = ["".join(f"{7 * '-'}{letter}" for letter in some) for some in itertools.product(letters, repeat=3)]
    unlike = [f"{number:024b}" for number in random.Random(1).sample(range(1 << 24), len(alike))]

    def seconds(chunks: list[str]) -> float:
        words, index = Chunks.of(" ".join(chunks)).words(), ChunkIndex()
        start = time.thread_time()
        index.numbers(words, 0)
        return time.thread_time() - start

    assert min(seconds(alike) for _ in range(3)) < 5 * min(seconds(unlike) for _ in range(3))
