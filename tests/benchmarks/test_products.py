"""Oracle: the formula of the speed, at a time that is known."""

from __future__ import annotations

from itertools import count

import pytest

from benchmarks import products


def test_speed_of_each_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock is half a second after the one before, so each product takes half a second."""
    clock = count()
    monkeypatch.setattr("time.process_time", lambda: next(clock) / 2)
    monkeypatch.setattr(products, "_CACHE_ELEMENTS", 10)
    report = products.bench_products(rows=(1, 5), rounds=2, shapes=((16, 24),))
    names = {measurement.name for measurement in report.measurements}
    assert {f"{N} x 16 x 24, float32, {way}" for N in (1, 5) for way in ("torch", "xlm", "packed")} <= names
    for measurement in report.measurements:
        N = int(measurement.name.split()[0])
        assert measurement.values == pytest.approx([2 * N * 16 * 24 / 0.5 / 1e9])
