"""``scripts/trace_calls.py``. Oracle: a toy program with known calls; bounds that hold for any tree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from trace_calls import Trace, trace

from tests.conftest import REPOSITORY

ONE = """
from toy_two import double, numbers

def start():
    import toy_three                    # not traced
    here()
    double(1)                           # to two
    list(map(double, [1, 2]))           # to two twice, through a function of C
    sorted([2, 1], key=lambda x: x)
    return sum(numbers())               # to two three times: a generator is entered anew for each number and its end

def here():
    pass
"""
TWO = """
import toy_one

def double(x):
    toy_one.here()                      # back to one, in each of three calls
    return twice(x)

def twice(x):
    return 2 * x

def numbers():
    yield 1
    yield 2
"""
THREE = "from toy_two import double\ndouble(1)\n"


def test_files_and_passages_of_a_toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("one", ONE), ("two", TWO), ("three", THREE)):
        (tmp_path / f"toy_{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    import toy_one  # type: ignore[import-not-found]

    assert trace(toy_one.start, tmp_path) == Trace(files=["toy_one.py", "toy_two.py"], passages=1 + 2 + 3 + 3)


def test_the_table() -> None:
    script = REPOSITORY / "scripts" / "trace_calls.py"
    printed = subprocess.run([sys.executable, script, "--files"], check=True, capture_output=True, text=True).stdout
    head, *lines = printed.splitlines()
    assert head.split() == ["call", "files", "passages"]
    rows = [line.rsplit(maxsplit=2) for line in lines if not line.startswith("  ")]
    assert [name for name, _, _ in rows] == [
        "encode, first text",
        "encode, new text",
        "encode_batch, 8 texts",
        "forward",
        "score, one text",
        "xlm score, start to end",
        "xlm score, one row",
        "generate, 8 tokens",
    ]
    assert sum(int(files) for _, files, _ in rows) == sum(line.startswith("  ") for line in lines)
    assert all(int(passages) >= int(files) - 1 > 0 for _, files, passages in rows)
    assert all((REPOSITORY / "xlm" / line.strip()).is_file() for line in lines if line.startswith("  "))
