"""Oracle: what CTranslate2 computes with the same weights, and plain functions for the processes of benchmarks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.ctranslate2_peer import Work, bench_beside_ctranslate2
from benchmarks.engine import Engine, in_turn
from xlm.errors import XLMError


@pytest.mark.parametrize("work", ["forward", "score", "generate"])
def test_beside_ctranslate2(work: Work, tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    report = bench_beside_ctranslate2(tmp_path, work=work, size="small", rounds=1, rows=2, new_tokens=4, lines=4)
    speeds = [figure for figure in report.measurements if figure.unit == "tokens/s"]
    assert len(speeds) == 2 * (2 if work == "generate" else 3)
    assert all(value > 0 for figure in speeds for value in figure.values)
    assert all(target.holds for target in report.targets), report
    assert len(report.targets) == (0 if work == "generate" else 2)  # packed and not, in float32
    if work == "generate":
        (differing,) = (f for f in report.measurements if f.name.startswith("packed float32: continuations"))
        assert differing.values == (0.0,)


def open_division(number: int) -> Callable[[int], float]:
    """Return a work for a process."""
    if number < 0:
        raise ValueError("less than zero")
    return lambda divisor: os._exit(3) if divisor == 1 else number / divisor


def test_a_process_works_and_tells_its_errors() -> None:
    with Engine("json", open_division, 6) as engine:
        seconds, result = engine.run(3)
        assert result == 2
        assert 0 < seconds < 1
        assert engine.memory() >= 0
        with pytest.raises(XLMError, match=r"open_division[\s\S]*ZeroDivisionError"):
            engine.run(0)
    with pytest.raises(XLMError, match="less than zero"):
        Engine("json", open_division, -1)
    with Engine("json", open_division, 6) as engine, pytest.raises(XLMError, match="The process of a benchmark ended"):
        engine.run(1)


def test_in_turn() -> None:
    calls: list[str] = []

    def work(name: str) -> tuple[float, str]:
        calls.append(name)
        return float(len(calls)), name

    figures, results = in_turn({"a": lambda: work("a"), "b": lambda: work("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert figures == {"a": (3.0, 5.0), "b": (4.0, 6.0)}  # the first round is a warm-up
    assert results == {"a": "a", "b": "b"}


@pytest.mark.parametrize("work", ["forward", "score", "generate", "train"])
def test_profile(work: str) -> None:
    arguments = ["profile", work, "--size", "small", "--rounds", "1", "--lines", "3", "--new-tokens", "3"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    shares = [line for line in result.stdout.splitlines() if "% of the time" in line]
    assert sum(float(line.split("%")[0].split()[-1]) for line in shares) == pytest.approx(100, abs=5)
    assert any("linear_pointwise" in line or "addmm" in line for line in shares)
