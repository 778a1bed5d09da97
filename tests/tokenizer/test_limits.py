"""Memory and time on the worst inputs. Oracle: 300 MB for the process, and time that grows as the input does."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest

from tests.tokenizer.small import MERGES, VOCABULARY
from xlm.errors import VocabularyError
from xlm.tokenizer.alignment import in_order_and_complete
from xlm.tokenizer.text_files import read_json_object
from xlm.tokenizer.tokenizer import XLMTokenizer

MOST_MB = 300
LETTERS = "abcdefghijklmnopqrstuvwxyz"
INPUTS = {
    "no space in 10 MB": "['thedog' * 1_700_000]",
    "random letters in 10 MB": f"[''.join(generator.choices({LETTERS!r}, k=10_000_000))]",
    "a million different words": "(' '.join(word(8) for _ in range(20)) for _ in range(50_000))",
    "a million words of two characters": "(' '.join(chr(0x4E00 + n % 20_000) + chr(0x4E00 + n // 20_000)"
    " for n in range(i, i + 500)) for i in range(0, 1_000_000, 500))",
    "a million different words in one line": "[' '.join(word(8) for _ in range(1_000_000))]",
    "different long chunks": "('(' + ' '.join(word(45) for _ in range(20)) + ')' for _ in range(10_000))",
    "dots in 10 MB": "['. ' * 5_000_000]",
}
SCRIPT = f"""
import random, sys
from pathlib import Path
from tests.tokenizer.small import MERGES, VOCABULARY
from xlm.tokenizer.tokenizer import XLMTokenizer
generator = random.Random(0)
word = lambda length: ''.join(generator.choices({LETTERS!r}, k=length))
tokenizer = XLMTokenizer(VOCABULARY, MERGES)
ids = sum(map(len, tokenizer.encode_stream(TEXTS)))
status = Path('/proc/self/status').read_text()
print(ids, status.partition('VmHWM:')[2].split()[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", INPUTS)
def test_memory_stays_small_whatever_the_input(name: str) -> None:
    command = [sys.executable, "-c", SCRIPT.replace("TEXTS", INPUTS[name])]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    ids, kilobytes = map(int, result.stdout.split())
    assert ids > 100_000
    assert kilobytes < MOST_MB * 1024


PATTERNS = {
    "dots": "....",
    "dots and spaces": ". ",
    "words and dots": "a.b. ",
    "spaces": "   ",
    "quotes": "\"'",
    "quotes and spaces": "\" ' ",
    "hyphens": "-- -",
    "digits and commas": "1,2,",
    "digits": "12 34",
    "brackets": "([{)]} ",
    "brackets and dots": ") .(",
    "mixed": "a.\" ,5 %'(b) …",
    "markers": "DOTMULTI.",
    "one word": "thedog",
    "one letter": "a",
    "marks": "e\u0301\u0301\u0327",
    "marks alone": "\u0301",
    "ideographs": "中文字，",
    "full-width": "１，。 ",
    "special tokens": "<s><special1>",
    "dropped signs": "a\u200b ",
}


@lru_cache(maxsize=3)
def tokenizer_of(preset: str) -> XLMTokenizer:
    return XLMTokenizer(VOCABULARY, MERGES, preset=preset)


CALLS: dict[str, Callable[[str], object]] = {
    "encode": lambda text: tokenizer_of("transformers").encode(text, lang="en"),
    "without a language": lambda text: tokenizer_of("transformers-v4").encode(text),
    "original": lambda text: tokenizer_of("original").encode(text, lang="de"),
    "pieces": lambda text: tokenizer_of("original").tokenize(text, lang="fr"),
    "batch": lambda text: tokenizer_of("transformers").encode_batch([text], lang="en"),
    "spans": lambda text: tokenizer_of("original")(text, lang="de", return_offsets=True),
    "decoding": lambda text: tokenizer_of("transformers").decode(
        [VOCABULARY.ids.get(character, 3) for character in text], lang="en", detokenize=True
    ),
}


def check_linear(pattern: str, call: str, *, shortest: int, longest: int) -> None:
    def seconds(length: int) -> float:
        text = pattern * (length // len(pattern))
        start = time.process_time()
        CALLS[call](text)
        return time.process_time() - start

    CALLS[call]("x")
    length, before = shortest, seconds(shortest)
    while length < longest:
        length *= 2
        now = seconds(length)
        # linear is 2, quadratic 4; half a second for what a busy machine adds to a short measurement
        assert now < 3 * before + 0.5, length
        before = now


@pytest.mark.parametrize("pattern", PATTERNS)
def test_time_is_linear(pattern: str) -> None:
    check_linear(PATTERNS[pattern], "encode", shortest=20_000, longest=80_000)


def test_time_of_spans_is_linear_where_much_is_dropped() -> None:
    def seconds(length: int) -> float:
        text = "ab " * length
        spans = [(start, start + 1) for start in range(0, len(text), 3)]  # every b was dropped
        begin = time.process_time()
        assert in_order_and_complete(text, spans)[-1] == (3 * length - 3, 3 * length - 1)
        return time.process_time() - begin

    # Eight times the length: quadratic is 64.
    assert seconds(320_000) < 20 * max(seconds(40_000), 0.05)


def test_time_to_find_a_key_that_stands_twice_is_linear(tmp_path: Path) -> None:
    def seconds(keys: int) -> float:
        path = tmp_path / "object.json"
        path.write_text("{" + "".join(f'"{key}": 1,' for key in range(keys)) + f'"{keys - 1}": 1' + "}")
        begin = time.process_time()
        with pytest.raises(VocabularyError, match="twice"):
            read_json_object(path)
        return time.process_time() - begin

    # Eight times as many: quadratic is 64.
    assert seconds(16_000) < 20 * max(seconds(2_000), 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
def test_time_is_linear_up_to_10_mb(pattern: str) -> None:
    check_linear(PATTERNS[pattern], "encode", shortest=1_250_000, longest=10_000_000)


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_time_of_every_call_is_linear(pattern: str, call: str) -> None:
    check_linear(PATTERNS[pattern], call, shortest=50_000, longest=400_000)
