"""``xlm train`` and ``xlm train-report``.

Oracle: the library's own run of the same configuration.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from tests.training.runs import equal, prepare_text, small_run, weights, write_config
from xlm.training.loop import train


def test_a_run_and_its_picture(invoke: Invoke, tmp_path: Path) -> None:
    data = prepare_text(tmp_path)
    settings = {"max_steps": 6, "log_every": 1, "evaluate_every": 6, "save_every": 3}
    config = write_config(tmp_path / "config.toml", data, tmp_path / "elsewhere", **settings)
    run = invoke("train", config, "--set", f"output={tmp_path / 'run'}")
    assert run.exit_code == 0, run.output
    assert run.stdout == ""
    assert "6/6  loss" in run.stderr
    assert "perplexity de" in run.stderr
    assert "done after 6 updates" in run.stderr
    train(small_run(data, tmp_path / "library", max_steps=6))
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "library"))
    again = invoke("train", config, "--set", f"output={tmp_path / 'run'}")
    assert again.exit_code == 1
    assert "holds another run" in again.stderr
    assert invoke("train", config, "--set", f"output={tmp_path / 'run'}", "--resume").exit_code == 0
    log = (tmp_path / "run/log.jsonl").read_bytes()
    refused = invoke("train-report", tmp_path / "run", "--output", tmp_path / "run/log.jsonl")
    assert refused.exit_code == 2
    assert "must end in .png" in refused.stderr
    assert (tmp_path / "run/log.jsonl").read_bytes() == log
    pytest.importorskip("matplotlib")
    report = invoke("train-report", tmp_path / "run")
    assert report.exit_code == 0, report.output
    assert "perplexity de: " in report.stdout
    assert (tmp_path / "run/report.png").exists()
    scored = invoke("score", tmp_path / "run/best", "--lang", "en", input=b"The dog\n")
    assert scored.exit_code == 0, scored.output


def test_mistakes_are_named(invoke: Invoke, tmp_path: Path) -> None:
    run = invoke("train", "clm_ende_small", "--set", "run.max_steps=0", "--set", "output=x")
    assert run.exit_code == 1
    assert "data: it must be given" in run.stderr
    run = invoke("train", "clm_ende_small", "--set", f"data={tmp_path}", "--set", f"output={tmp_path / 'run'}")
    assert run.exit_code == 1
    assert "no prepared shards" in run.stderr
    run = invoke("train-report", tmp_path)
    assert run.exit_code == 1
    assert "nothing to draw" in run.stderr
