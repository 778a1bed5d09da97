"""Conclusions of ``scripts/measure_ray.py``. Oracle: numbers by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

pyarrow = pytest.importorskip("pyarrow")

import measure_ray  # noqa: E402 (it reads tables)
import pyarrow.parquet as parquet  # noqa: E402


@pytest.mark.parametrize(
    ("found", "same"),
    [([-1.0, None], True), ([-1.0005, None], True), ([-1.1, None], False), ([None, -1.0], False), ([-1.0], False)],
)
def test_rows_without_scores_are_compared_too(tmp_path: Path, found: list[float | None], same: bool) -> None:
    for name, logprobs in (("local", [-1.0, None]), ("part", found)):
        columns = {"line": list(range(len(logprobs))), "logprob": pyarrow.array(logprobs, pyarrow.float64())}
        parquet.write_table(pyarrow.table(columns), tmp_path / name)
    assert measure_ray._same_rows(tmp_path / "local", tmp_path / "part") == same


@pytest.mark.parametrize(("last", "flat"), [(104, True), (106, False)])
def test_flat_is_what_does_not_grow(capsys: pytest.CaptureFixture[str], last: int, flat: bool) -> None:
    curves = {1: [100] * 9 + [last], 2: [1, 999], 3: [50] * 10}
    assert measure_ray.is_flat(curves, {1: "worker", 2: "gone", 3: "head"}) == flat
    printed = capsys.readouterr().out
    assert ("GROWS" in printed) == (not flat)
    assert "seen 2 of 10 times" in printed
