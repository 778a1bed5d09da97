"""Oracle: two ways of taking a step see the same loss; what the results must satisfy whatever the machine."""

from __future__ import annotations

import pytest
import torch

from benchmarks import training
from benchmarks.training import WAYS, bench_train, take_steps
from xlm.model.config import XLMConfig

TINY = (XLMConfig.clm_ende_1024(vocab_size=300, emb_dim=16, n_layers=1, n_heads=2), 4, 8)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(training.SETTINGS, "small", TINY)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_both_ways_see_the_same_loss(precision: str, tolerance: float) -> None:
    ours, plain = (take_steps(way, "small", precision, 4, 1) for way in WAYS)
    assert ours["loss"] == pytest.approx(plain["loss"], rel=tolerance)
    assert min(ours["step_seconds"], plain["step_seconds"]) > 0


def test_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_this_process(kind: str, way: str, size: str, precision: str, rows: str, steps: str) -> dict[str, float]:
        assert (kind, rows, steps) == ("train", "4", "2")
        return {
            **take_steps(way, size, precision, int(rows), int(steps)),
            "peak_mb": {"xlm": 10.0, "plain loop": 40.0}[way],
        }

    monkeypatch.setattr(training, "measure", in_this_process)
    monkeypatch.setattr(training, "matrix_peak", lambda dtype: {torch.float32: 100.0}[dtype])
    report = bench_train(size="small", precision="float32", rounds=2, steps=2)
    assert [len(figure.values) for figure in report.measurements] == [2] * 7
    targets = {target.name: target for target in report.targets}
    assert targets["losses, relative difference"].holds
    assert targets["xlm / plain loop, memory"].value == 0.25
    assert "xlm / matrix product" not in targets  # that target is for the published size


@pytest.mark.parametrize("units", [True, False])
def test_a_processor_without_units_for_bfloat16_is_given_less(monkeypatch: pytest.MonkeyPatch, units: bool) -> None:
    rows_taken: list[str] = []

    def remember(*arguments: str) -> dict[str, float]:
        rows_taken.append(arguments[4])
        return {"step_seconds": 1.0, "loss": 5.0, "peak_mb": 1.0}

    monkeypatch.setattr(training, "measure", remember)
    monkeypatch.setattr(training, "matrix_peak", lambda dtype: 7.0)
    monkeypatch.setattr(training, "multiplies_bfloat16", lambda: units)
    text = str(bench_train(size="published", precision="bfloat16", rounds=1))
    assert set(rows_taken) == {"8" if units else "1"}
    assert ("emulated" in text) is not units
    assert f"{rows_taken[0]} x 256 tokens" in text
    assert "matrix product, bfloat16" in text
