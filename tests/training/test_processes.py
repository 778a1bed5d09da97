"""Several processes, started by torchrun, on the CPU (gloo).

Oracle: one process with the same batches.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.training.runs import events, small_run, updates, weights, write_config
from xlm.errors import ConfigError
from xlm.training.checkpoints import newest_checkpoint
from xlm.training.config import ModelSettings
from xlm.training.loop import train

MODEL = ModelSettings(emb_dim=16, n_layers=1, n_heads=2, max_position_embeddings=16, dropout=0.0, attention_dropout=0.0)


def _start(processes: int, config: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "xlm", "train", str(config), "--resume"]
    for option in ("model.dropout=0.0", "model.attention_dropout=0.0", *options):
        command += ["--set", option]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def test_two_processes_are_one(data: Path, tmp_path: Path) -> None:
    settings = {"updates": 12, "log_every": 1, "evaluate_every": 6, "save_every": 3}
    config = write_config(tmp_path / "config.toml", data, tmp_path / "two", **settings)
    for last in (7, 12):  # the second goes on where the first ended
        process = _start(2, config, "batch.accumulation=2", f"run.updates={last}")
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output.decode()
    assert [(event["processes"], event["updates"]) for event in events(tmp_path / "two", "start")] == [(2, 0), (2, 7)]
    train(small_run(data, tmp_path / "one", model=MODEL))
    assert len(updates(tmp_path / "two")) == 12
    for one, two in zip(updates(tmp_path / "one"), updates(tmp_path / "two"), strict=True):
        assert two == pytest.approx(one, rel=1e-5)
    one_by_updates, two_by_updates = (
        {event["updates"]: event["perplexity"] for event in events(tmp_path / kind, "evaluation")}
        for kind in ("one", "two")
    )
    for number in (6, 12):
        assert two_by_updates[number] == pytest.approx(one_by_updates[number], rel=1e-5)
    for name, tensor in weights(tmp_path / "one").items():
        if not name.endswith("key.bias"):  # their gradient is rounding noise, see test_optimiser
            difference = (weights(tmp_path / "two")[name] - tensor).norm() / tensor.norm()
            assert float(difference) < 1e-4, name


def test_a_process_that_dies_ends_the_run(data: Path, tmp_path: Path) -> None:
    settings = {"updates": 100_000, "log_every": 1, "evaluate_every": 0, "save_every": 10}
    config = write_config(tmp_path / "config.toml", data, tmp_path / "run", **settings)
    process = _start(2, config)
    try:
        deadline = time.monotonic() + 90
        while len(updates(tmp_path / "run")) < 25:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if not children.exists():
            pytest.skip("this system does not tell a process's children")
        victim = int(children.read_text().split()[-1])
        os.kill(victim, signal.SIGKILL)
        begun = time.monotonic()
        output, _ = process.communicate(timeout=60)
        assert time.monotonic() - begun < 60
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert process.returncode != 0
    assert b"SIGKILL" in output or b"exitcode" in output
    found = newest_checkpoint(tmp_path / "run")
    assert found is not None
    assert found[1]["step"] >= 20


def test_rows_that_cannot_be_shared_out(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="multiple of"):
        small_run(data, tmp_path / "run", accumulation=3)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="There is no GPU"):
        train(small_run(data, tmp_path / "run", device="cuda"))
