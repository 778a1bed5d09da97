"""Interrupted translation runs.

Oracle: the run that nothing interrupted; every loss, translation and bit of the weights must be the same.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.killed import needs_fork, run_killed
from tests.training.runs import (
    TRANSLATION,
    equal,
    events,
    start_from,
    train_with_cuts,
    translation_run,
    translation_weights,
    updates,
)
from xlm.errors import ConfigError
from xlm.training.checkpoints import newest_checkpoint
from xlm.training.config import CoefficientSettings, EvaluationSettings, NoiseSettings
from xlm.training.loop import train

DROPOUT = {"dropout": 0.1, "attention_dropout": 0.1}


@pytest.fixture(scope="module")
def whole(pairs: Path, translator: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of an uninterrupted run."""
    output = tmp_path_factory.mktemp("translation") / "whole"
    train(translation_run(pairs, output, model=start_from(translator, **DROPOUT)))
    return output


def _same(run: Path, whole_run: Path) -> None:
    assert updates(run) == updates(whole_run)
    for one, other in zip(events(run, "evaluation"), events(whole_run, "evaluation"), strict=True):
        assert one == other
    assert equal(translation_weights(run), translation_weights(whole_run))
    assert equal(translation_weights(run, "best"), translation_weights(whole_run, "best"))
    names = sorted(path.name for path in (whole_run / "translations").iterdir())
    assert sorted(path.name for path in (run / "translations").iterdir()) == names
    for name in names:
        assert (run / "translations" / name).read_bytes() == (whole_run / "translations" / name).read_bytes()
    assert not list(run.rglob(".*"))


@given(st.lists(st.integers(1, 19), min_size=1, max_size=3))
@example([1])
@example([18])
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cut_off_anywhere_and_any_number_of_times(pairs: Path, translator: Path, whole: Path, cuts: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = translation_run(pairs, Path(folder) / "run", model=start_from(translator, **DROPOUT))
        train_with_cuts(config, cuts)
        _same(Path(folder) / "run", whole)


def _write_config(path: Path, data: Path, output: Path, translator: Path, **changes: Any) -> Path:
    config = translation_run(data, output, model=start_from(translator, **DROPOUT), **changes)
    lines = []
    values = config.to_dict()
    tables = {name: value for name, value in values.items() if isinstance(value, dict)}
    for name, value in values.items():
        if name not in tables:
            lines.append(f"{name} = {_toml(value)}")
    for table, keys in tables.items():
        lines += [f"[{table}]", *(f"{key} = {_toml(value)}" for key, value in keys.items())]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


LONG: dict[str, Any] = {"max_steps": 60, "evaluate_every": 7, "save_every": 3, "keep_last": 2}


def test_a_run_killed_at_drawn_moments_is_the_run_that_was_not(pairs: Path, translator: Path, tmp_path: Path) -> None:
    """Kill the process at whatever it does, again and again, until it comes to its end."""
    config = _write_config(tmp_path / "config.toml", pairs, tmp_path / "run", translator, **LONG)
    command = [sys.executable, "-m", "xlm", "train", str(config), "--resume"]
    draw = random.Random(5)
    for kills in range(4):
        with (tmp_path / f"errors{kills}").open("wb") as errors:
            process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=errors)
        try:
            if kills == 3:
                assert process.wait(timeout=240) == 0, (tmp_path / "errors3").read_text("utf-8")
                break
            done, deadline = _newest_step(tmp_path / "run"), time.monotonic() + 120
            while _newest_step(tmp_path / "run") < done + 3:
                assert process.poll() is None, (tmp_path / f"errors{kills}").read_text("utf-8")
                assert time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(draw.random() * 0.3)
            process.kill()
            assert process.wait() == -signal.SIGKILL
        finally:
            process.kill()
            process.wait()
    train(translation_run(pairs, tmp_path / "whole", model=start_from(translator, **DROPOUT), **LONG))
    _same(tmp_path / "run", tmp_path / "whole")


@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize("every", [29, 1])
def test_a_run_killed_before_a_change_of_a_file_is_the_run_that_was_not(
    pairs: Path, translator: Path, tmp_path: Path, every: int
) -> None:
    """At any such moment, with all objectives in one run."""
    short = {"max_steps": 8, "evaluate_every": 3, "save_every": 2, "keep_last": 2, "batch_size": 8}
    config = _write_config(
        tmp_path / "config.toml", pairs, tmp_path, translator, objectives=(*TRANSLATION, "clm"), **short
    )
    whole, *others = run_killed(
        tmp_path / "runs", every, "train", config, "--resume", "--set", "output=OUTPUT", "--set", "run.device=cpu"
    )
    assert others
    assert len(updates(whole)) == 8
    for run in others:
        _same(run, whole)


def _newest_step(run: Path) -> int:
    steps = [int(path.name[5:]) for path in (run / "checkpoints").glob("step-?????????")]
    return max(steps, default=0)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_low_precision(pairs: Path, translator: Path, whole: Path, tmp_path: Path, precision: str) -> None:
    """Also with accumulation and recomputed layers, which change nothing but rounding."""
    low: dict[str, Any] = {"model": start_from(translator), "precision": precision}
    train(translation_run(pairs, tmp_path / "full", model=start_from(translator)))
    train(translation_run(pairs, tmp_path / "low", **low))
    full_losses, low_losses = (
        [event["losses"] for event in events(tmp_path / name, "update")] for name in ("full", "low")
    )
    assert low_losses != full_losses
    for one, other in zip(full_losses, low_losses, strict=True):
        assert other == pytest.approx(one, rel=0.05)
    train(translation_run(pairs, tmp_path / "parts", **low, max_steps=7, evaluate_every=0))
    train(translation_run(pairs, tmp_path / "parts", **low), resume=True)
    assert updates(tmp_path / "parts") == updates(tmp_path / "low")
    assert equal(translation_weights(tmp_path / "parts"), translation_weights(tmp_path / "low"))


def test_activation_checkpointing_changes_not_one_bit(
    pairs: Path, translator: Path, whole: Path, tmp_path: Path
) -> None:
    model = start_from(translator, **DROPOUT)
    train(translation_run(pairs, tmp_path / "run", model=model, activation_checkpointing=True))
    _same(tmp_path / "run", whole)


def test_settings_of_the_run_may_change(pairs: Path, translator: Path, whole: Path, tmp_path: Path) -> None:
    """Among them how often it evaluates: the first part does not open the held-out pairs."""
    model = start_from(translator, **DROPOUT)
    train(translation_run(pairs, tmp_path / "run", model=model, max_steps=5, evaluate_every=0))
    train(translation_run(pairs, tmp_path / "run", model=model), resume=True)
    _same(tmp_path / "run", whole)
    pieces = translation_run(pairs, tmp_path / "run", model=model, max_steps=13, gradient_accumulation_steps=2)
    assert train(pieces, resume=True).updates == 13


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("noise.word_blank", {"noise": NoiseSettings(word_blank=0.2)}),
        ("coefficients.ae", {"coefficients": CoefficientSettings(ae="0.5")}),
        ("batch.max_length", {"max_length": 29}),
        ("batch.tokens_per_batch", {"tokens_per_batch": 50}),
        ("evaluation.num_beams", {"evaluation": EvaluationSettings(num_beams=2)}),
        ("objectives", {"objectives": ("ae:de",)}),
    ],
)
def test_other_settings_are_refused(pairs: Path, tmp_path: Path, key: str, changes: dict[str, Any]) -> None:
    train(translation_run(pairs, tmp_path / "run", max_steps=1, evaluate_every=0))
    with pytest.raises(ConfigError) as caught:
        train(translation_run(pairs, tmp_path / "run", **changes), resume=True)
    assert key in str(caught.value.where).split("; ")
    assert f"{key} = " in str(caught.value.found)


def test_what_a_killed_process_began_to_write_is_removed(pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(translation_run(pairs, run, max_steps=1))
    for folder in (run, run / "translations", run / "best", run / "checkpoints"):
        (folder / ".0123.tmp").write_text("half", "utf-8")
    (run / "checkpoints/.4567.tmp").mkdir()
    train(translation_run(pairs, run, max_steps=2), resume=True)
    assert not list(run.rglob(".*"))
    assert newest_checkpoint(run) is not None
