"""Translation runs in two processes on the CPU (gloo).

Oracle: one process with the same batches.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.training.runs import events, start_from, translation_run, translation_weights, updates
from tests.training.test_processes import _run_two
from xlm.training.loop import train


def _same_run(one: Path, other: Path, *, rel: float = 1e-5) -> None:
    """Compare losses, gradient norms, evaluations, translations and weights of two runs."""
    assert [number for number, _, _ in updates(other)] == list(range(1, 13))
    for expected, found in zip(updates(one), updates(other), strict=True):
        assert found == pytest.approx(expected, rel=rel)
    expected_results, found_results = ({e["updates"]: e for e in events(run, "evaluation")} for run in (one, other))
    for number in (6, 12):
        expected_result = expected_results[number]
        for name in ("bleu", "accuracy", "perplexity", "test_bleu", "mean_bleu"):
            assert found_results[number][name] == pytest.approx(expected_result[name], rel=rel), (number, name)
    assert _translations(one).items() <= _translations(other).items()  # a run in two parts has more evaluations
    for name in ("last", "best"):
        found_weights = translation_weights(other, name)
        for key, tensor in translation_weights(one, name).items():
            if not key.endswith("key.bias"):  # their gradient is rounding noise, see test_optimiser
                assert float((found_weights[key] - tensor).norm() / tensor.norm()) < 10 * rel, (name, key)


def _translations(run: Path) -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in (run / "translations").iterdir()}


def test_two_processes_are_one(pairs: Path, translator: Path, tmp_path: Path) -> None:
    """Whole and sharded, in pieces, in low precision, and changed from one to the other by resuming."""
    full = {"sharding": "full"}
    mixed: dict[str, Any] = {"objectives": ["bt:de-en-de", "ae:en", "clm"], "batch_size": 8}
    pieces = {"gradient_accumulation_steps": 2, "activation_checkpointing": True}
    runs: list[tuple[str, dict[str, Any]]] = [
        ("whole", {}),
        ("shared", full),
        ("whole-pieces", pieces),
        ("shared-pieces", {**full, **pieces}),
        ("one-batch", {**full, "evaluation_size": 12}),  # so one process has nothing to translate
        ("bad-whole", {}),
        ("bad-shared", full),
        ("mixed-whole", mixed),
        ("mixed-whole-pieces", {**mixed, **pieces}),
        ("mixed-shared", {**mixed, "max_steps": 6}),
        ("mixed-shared", {**mixed, **full}),
        ("to-whole", {**full, "max_steps": 7}),
        ("to-whole", {}),
        ("to-shared", {"max_steps": 7}),
        ("to-shared", full),
        ("to-one", {**full, "max_steps": 7}),
        *(
            (f"{how}-{precision}", {**changes, "precision": precision})
            for precision in ("bfloat16", "float16")
            for how, changes in (("whole", {}), ("shared", {**full, "max_steps": 7}), ("shared", full))
        ),
    ]
    _run_two(str(pairs), str(tmp_path), json.dumps(runs), str(translator))
    model = start_from(translator)
    train(translation_run(pairs, tmp_path / "one", model=model))
    train(translation_run(pairs, tmp_path / "one-12", model=model, evaluation_size=12))
    train(translation_run(pairs, tmp_path / "to-one", model=model, sharding="full"), resume=True)
    for name in ("whole", "shared", "whole-pieces", "shared-pieces", "to-whole", "to-shared", "to-one"):
        _same_run(tmp_path / "one", tmp_path / name)
    _same_run(tmp_path / "one-12", tmp_path / "one-batch")
    train(translation_run(pairs, tmp_path / "mixed-one", model=model, **mixed))
    for name in ("mixed-whole", "mixed-whole-pieces", "mixed-shared"):
        _same_run(tmp_path / "mixed-one", tmp_path / name)
    for precision in ("bfloat16", "float16"):
        _same_run(tmp_path / f"whole-{precision}", tmp_path / f"shared-{precision}")
        assert updates(tmp_path / f"whole-{precision}") != updates(tmp_path / "whole")
    for name in ("bad-whole", "bad-shared"):
        assert [event["in_a_row"] for event in events(tmp_path / name, "skipped")] == [1]
        assert all(bool(tensor.isfinite().all()) for tensor in translation_weights(tmp_path / name).values())
    _same_run(tmp_path / "bad-whole", tmp_path / "bad-shared")
    (start, *_) = events(tmp_path / "shared", "start")
    assert start["kept"] / start["parameters"] == pytest.approx(0.5, rel=0.02)
