"""Interrupted runs, damaged checkpoints, full disks.

Oracle: the run that nothing interrupted; every loss and every bit of the weights must be the same.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
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

import xlm.training.checkpoints as checkpoints
from tests.training.runs import (
    equal,
    events,
    prepare_text,
    small_run,
    small_tokenizer,
    train_with_cuts,
    updates,
    weights,
    write_config,
)
from xlm.checkpoint.hf_weights import write_safetensors
from xlm.data.prepare import prepare
from xlm.errors import CheckpointError, ConfigError, WriteError
from xlm.training.config import ModelSettings
from xlm.training.loop import train


def _same(run: Path, whole_run: Path) -> None:
    assert updates(run) == updates(whole_run)
    assert [e["perplexity"] for e in events(run, "evaluation")] == [
        e["perplexity"] for e in events(whole_run, "evaluation")
    ]
    assert equal(weights(run), weights(whole_run))
    assert equal(weights(run, "best"), weights(whole_run, "best"))


@given(st.lists(st.integers(1, 19), min_size=1, max_size=3))
@example([1])
@example([19])
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cut_off_anywhere_and_any_number_of_times(data: Path, whole_run: Path, cuts: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = small_run(data, Path(folder) / "run")
        train_with_cuts(config, cuts)
        _same(Path(folder) / "run", whole_run)


def test_means_of_losses_go_across_a_cut(data: Path, tmp_path: Path) -> None:
    """The log has a line every 5 updates; the run stops after 7."""
    train(small_run(data, tmp_path / "whole", log_every=5))
    asked = iter([False] * 6 + [True])
    stopped = train(small_run(data, tmp_path / "run", log_every=5), should_stop=lambda: next(asked))
    assert stopped.updates == 7
    assert events(tmp_path / "run", "end")[-1]["reason"] == "stopped"
    train(small_run(data, tmp_path / "run", log_every=5), resume=True)
    assert [number for number, _, _ in updates(tmp_path / "run")] == [5, 10, 12]
    assert updates(tmp_path / "run") == updates(tmp_path / "whole")


def test_what_a_killed_process_began_to_write_is_removed(data: Path, whole_run: Path, tmp_path: Path) -> None:
    shutil.copytree(whole_run, tmp_path / "run")
    (tmp_path / "run/checkpoints/.0123.tmp").mkdir()
    (tmp_path / "run/checkpoints/.0123.tmp/model.safetensors").write_bytes(b"half")
    train(small_run(data, tmp_path / "run"), resume=True)
    assert not list((tmp_path / "run").rglob(".*"))


def test_a_model_to_start_from_is_needed_once(data: Path, whole_run: Path, tmp_path: Path) -> None:
    shutil.copytree(whole_run / "last", tmp_path / "start")
    model = ModelSettings(start_from=str(tmp_path / "start"), dropout=0.3)
    train(small_run(data, tmp_path / "whole", model=model))
    train(small_run(data, tmp_path / "run", model=model, max_steps=4))
    shutil.rmtree(tmp_path / "start")
    train(small_run(data, tmp_path / "run", model=model), resume=True)
    assert updates(tmp_path / "run")[4:] == updates(tmp_path / "whole")[4:]
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_accumulation_and_length_may_change(data: Path, whole_run: Path, tmp_path: Path) -> None:
    train(small_run(data, tmp_path / "run", max_steps=9))
    train(small_run(data, tmp_path / "run"), resume=True)
    assert updates(tmp_path / "run") == updates(whole_run)
    train(small_run(data, tmp_path / "run", max_steps=13, gradient_accumulation_steps=2), resume=True)


@pytest.mark.parametrize(("before", "after"), [("float32", "float16"), ("float16", "float32")])
def test_the_precision_may_change(data: Path, tmp_path: Path, before: str, after: str) -> None:
    train(small_run(data, tmp_path / "run", max_steps=3, precision=before))
    assert train(small_run(data, tmp_path / "run", max_steps=5, precision=after), resume=True).updates == 5


@pytest.mark.parametrize(
    ("key", "changes"),
    [("seed", {"seed": 5}), ("batch.batch_size", {"batch_size": 2}), ("batch.shuffle", {"shuffle": False})],
)
def test_other_settings_are_refused(data: Path, tmp_path: Path, key: str, changes: dict[str, Any]) -> None:
    train(small_run(data, tmp_path / "run", max_steps=1))
    with pytest.raises(ConfigError, match=f"where: {key}"):
        train(small_run(data, tmp_path / "run", **changes), resume=True)


def test_a_run_of_an_older_release_goes_on(data: Path, whole_run: Path, tmp_path: Path) -> None:
    """Its checkpoint has the old names of the settings."""
    train(small_run(data, tmp_path / "run", max_steps=6))
    (file,) = (tmp_path / "run/checkpoints").glob("step-000000006/state.json")
    contents = json.loads(file.read_text("utf-8"))
    contents.pop("sha256")
    batch = contents["state"]["run"]["batch"]
    for name in set(batch) - {"batch_size", "seq_len", "shuffle"}:  # which older releases did not have
        batch.pop(name)
    assert set(batch) == {"batch_size", "seq_len", "shuffle"}
    batch["rows"], batch["width"] = batch.pop("batch_size"), batch.pop("seq_len")
    for name in ("tokenizer", "valid"):  # which older releases did not save
        contents["state"]["run"].pop(name)
    file.write_text(json.dumps({**contents, "sha256": checkpoints._checksum(contents)}), "utf-8")
    with pytest.raises(ConfigError, match=r"where: batch.batch_size\n"):
        train(small_run(data, tmp_path / "run", batch_size=2), resume=True)
    train(small_run(data, tmp_path / "run"), resume=True)
    assert events(tmp_path / "run", "start")[-1]["updates"] == 6
    _same(tmp_path / "run", whole_run)


def test_a_key_that_an_older_release_did_not_have_was_at_its_default(data: Path, tmp_path: Path) -> None:
    train(small_run(data, tmp_path / "run", max_steps=3))
    (file,) = (tmp_path / "run/checkpoints").glob("*/state.json")
    contents = json.loads(file.read_text("utf-8"))
    contents.pop("sha256")
    assert contents["state"]["run"].pop("objectives") == ["clm"]
    assert contents["state"]["run"]["batch"].pop("shuffle") is True
    progress = contents["state"]["progress"]
    assert progress["losses"] == {}
    progress["losses"] = []  # as it was before objectives had names
    for name in ("best_metric", "without_best"):
        progress.pop(name)
    file.write_text(json.dumps({**contents, "sha256": checkpoints._checksum(contents)}), "utf-8")
    with pytest.raises(ConfigError, match=r"where: batch.shuffle\n"):
        train(small_run(data, tmp_path / "run", shuffle=False), resume=True)
    assert train(small_run(data, tmp_path / "run", max_steps=4), resume=True).updates == 4


def test_the_best_perplexity_of_an_older_release_is_no_value_of_another_metric(data: Path, tmp_path: Path) -> None:
    train(small_run(data, tmp_path / "run", max_steps=4, evaluate_every=2))
    (file,) = (tmp_path / "run/checkpoints").glob("*4/state.json")
    contents = json.loads(file.read_text("utf-8"))
    contents.pop("sha256")
    progress = contents["state"]["progress"]
    assert progress.pop("best_metric") == "mean"
    progress.pop("without_best")
    progress["losses"], progress["best"] = [], 0.5  # below any perplexity, so that no later one would be the best
    file.write_text(json.dumps({**contents, "sha256": checkpoints._checksum(contents)}), "utf-8")
    resumed = train(
        small_run(data, tmp_path / "run", max_steps=6, evaluate_every=2, best_metric="perplexity.de"), resume=True
    )
    (evaluation,) = (event for event in events(tmp_path / "run", "evaluation") if event["updates"] == 6)
    assert (resumed.best_metric, resumed.best) == ("perplexity.de", evaluation["perplexity"]["de"])
    assert evaluation["best"]


def test_another_text_to_evaluate_on_is_refused(tmp_path: Path) -> None:
    data, other = tmp_path / "data", tmp_path / "other/data"
    other.parent.mkdir()
    prepare_text(tmp_path)
    train(small_run(data, tmp_path / "run", max_steps=3))
    (other.parent / "en").write_text("The dog.\n" * 20, "utf-8")
    texts = {language: tmp_path / language for language in ("de", "en")}
    prepare(small_tokenizer(), {"train": texts, "valid": {**texts, "en": other.parent / "en"}}, other)
    with pytest.raises(ConfigError, match=r"where: valid.en\n"):
        train(small_run(other, tmp_path / "run", max_steps=6), resume=True)
    train(small_run(data, tmp_path / "run", max_steps=6), resume=True)


@pytest.mark.parametrize("damage", ["cut", "flipped", "missing", "emptied"])
@pytest.mark.parametrize("name", ["state.json", "model.safetensors", "optimiser.safetensors", "config.json"])
def test_a_damaged_checkpoint_is_passed_over(
    whole_run: Path, data: Path, tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(whole_run, tmp_path / "run")
    file = tmp_path / "run/checkpoints/step-000000012" / name
    content = file.read_bytes()
    middle = len(content) // 2
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(
            {
                "cut": content[:-1] if name != "state.json" else content[:-3],
                "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
                "emptied": b"",
            }[damage]
        )
    with caplog.at_level(logging.WARNING, "xlm"):
        train(small_run(data, tmp_path / "run"), resume=True)
    assert "a checkpoint is damaged" in caplog.text
    assert name in caplog.text
    assert events(tmp_path / "run", "start")[-1]["updates"] == 9
    _same(tmp_path / "run", whole_run)
    assert (tmp_path / "run/checkpoints/step-000000012.damaged").is_dir()


def test_all_damaged(whole_run: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(whole_run, tmp_path / "run")
    for file in (tmp_path / "run/checkpoints").glob("*/state.json"):
        file.write_text("{}", "utf-8")
    with pytest.raises(CheckpointError, match="All checkpoints"):
        train(small_run(data, tmp_path / "run"), resume=True)


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"../../train.toml": "0"}},
        {"files": ["config.json"]},
        {"ages": None},
        {"state": 3},
        {"format": None},
    ],
)
def test_a_state_of_another_kind_is_no_state(change: dict[str, Any], whole_run: Path, tmp_path: Path) -> None:
    """The checksum is right, and the contents are not a state."""
    shutil.copytree(whole_run, tmp_path / "run")
    for file in (tmp_path / "run/checkpoints").glob("*/state.json"):
        contents = {**json.loads(file.read_text("utf-8")), **change}
        del contents["sha256"]
        file.write_text(json.dumps({**contents, "sha256": checkpoints._checksum(contents)}), "utf-8")
    with pytest.raises(CheckpointError):
        checkpoints.newest_checkpoint(tmp_path / "run")


def test_a_forged_state_is_no_state(whole_run: Path, tmp_path: Path) -> None:
    """A changed number no longer matches the checksum."""
    shutil.copytree(whole_run, tmp_path / "run")
    for file in (tmp_path / "run/checkpoints").glob("*/state.json"):
        contents = json.loads(file.read_text("utf-8"))
        contents["state"]["progress"]["updates"] += 1
        file.write_text(json.dumps(contents), "utf-8")
    with pytest.raises(CheckpointError):
        checkpoints.newest_checkpoint(tmp_path / "run")


def _full_disk(monkeypatch: pytest.MonkeyPatch, *full: int) -> None:
    """Simulate a full disk in some of the calls that write moments, counted from 1."""
    genuine, calls = write_safetensors, 0

    def write(path: Path, *arguments: Any, **options: Any) -> None:
        nonlocal calls
        calls += 1
        if calls in full:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        genuine(path, *arguments, **options)

    monkeypatch.setattr("xlm.training.checkpoints.write_safetensors", write)


def test_a_disk_that_is_full_for_a_while(
    data: Path, whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _full_disk(monkeypatch, 2)
    train(small_run(data, tmp_path / "run"))
    assert "could not be saved; the run continues" in caplog.text
    assert [event["step"] for event in events(tmp_path / "run", "not_saved")] == [6]
    names = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert names == ["step-000000003", "step-000000009", "step-000000012"]  # and nothing half-written
    _same(tmp_path / "run", whole_run)


def test_a_disk_that_is_full_at_the_end(
    data: Path, whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _full_disk(monkeypatch, 3, 4)
    with pytest.raises(WriteError, match="free some space"):
        train(small_run(data, tmp_path / "run"))
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())[-1] == "step-000000006"
    train(small_run(data, tmp_path / "run"), resume=True)
    _same(tmp_path / "run", whole_run)


def _start(config_file: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "xlm", "train", str(config_file), "--resume", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGUSR1"])
def test_signals(data: Path, tmp_path: Path, name: str) -> None:
    """Send a signal to a real process, and continue its run from the last checkpoint."""
    settings = {"max_steps": 600, "log_every": 1, "evaluate_every": 0, "save_every": 20}
    config = write_config(tmp_path / "config.toml", data, tmp_path / "run", **settings)
    process = _start(config)
    try:
        deadline = time.monotonic() + 60
        while len(updates(tmp_path / "run")) < 30:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(getattr(signal, name))
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == (-9 if name == "SIGKILL" else 0), errors
    found = checkpoints.newest_checkpoint(tmp_path / "run")
    assert found is not None
    done = found[1]["step"]
    assert 20 <= done < 600
    logged = updates(tmp_path / "run")
    if name != "SIGKILL":
        assert b"stopped after" in errors
        assert done == len(logged)
    small = small_run(data, tmp_path / "run", max_steps=done + 5, evaluate_every=0, save_every=20)
    train(small, resume=True)
    train(small_run(data, tmp_path / "whole", max_steps=done + 5, evaluate_every=0, save_every=20))
    assert updates(tmp_path / "run") == updates(tmp_path / "whole")
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))
