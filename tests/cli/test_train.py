"""``xlm train`` and ``xlm train-report``.

Oracle: the library's own run of the same configuration.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Invoke
from tests.tokenizer.small import TEXT
from tests.training.runs import (
    equal,
    events,
    prepare_text,
    small_run,
    small_tokenizer,
    weights,
    write_config,
)
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


def test_a_translation_run_and_its_picture(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sacrebleu")
    data = tmp_path / "data"
    text = tmp_path / "text"
    text.write_text("".join(f"{line}\n" for line in TEXT.split(". ")), "utf-8")
    tokenizer = tmp_path / "tokenizer"
    small_tokenizer().save_pretrained(tokenizer)
    pairs = f"de-en={text},{text}"
    run = invoke("prepare", data, "--model", tokenizer, "--train", f"de={text}", "--train", pairs, "--valid", pairs)
    assert run.exit_code == 0, run.output
    config = write_config(tmp_path / "config.toml", data, tmp_path / "run", max_steps=4, log_every=2, evaluate_every=2)
    content = config.read_text("utf-8").replace("seq_len = 8", "max_length = 60")
    content = content.replace("embeddings = 16", "embeddings = 64")
    config.write_text(f'objectives = ["ae:de", "mt:de-en"]\n{content}', "utf-8")
    run = invoke("train", config, "--set", "run.tensorboard=true")
    assert run.exit_code == 0, run.output
    assert re.search(r"4/4  loss [\d.]+ \(ae [\d.]+, mt [\d.]+\)  gradient", run.stderr)
    assert re.search(r"4  bleu de-en [\d.]+  accuracy de-en [\d.]+  perplexity de-en [\d.]+  mean_bleu", run.stderr)
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    scalars = accumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert {"loss/ae", "loss/mt", "bleu/de-en", "accuracy/de-en", "mean_bleu"} <= set(scalars.Tags()["scalars"])
    figure = pytest.importorskip("matplotlib.figure").Figure
    drawn: dict[str, list[str]] = {}
    genuine = figure.savefig

    def look(self: Any, *arguments: object, **options: object) -> None:
        for axes in self.axes:
            drawn[axes.get_title()] = [str(line.get_label()) for line in axes.get_lines()]
        genuine(self, *arguments, **options)

    monkeypatch.setattr(figure, "savefig", look)
    report = invoke("train-report", tmp_path / "run")
    assert report.exit_code == 0, report.output
    last = events(tmp_path / "run", "evaluation")[-1]
    assert f"BLEU de-en: {last['bleu']['de-en']:.2f}" in report.stdout
    assert "highest mean BLEU: " in report.stdout
    assert drawn["BLEU of held-out pairs"] == [f"de-en ({last['bleu']['de-en']:.2f})"]
    assert drawn["Accuracy of the next token (%)"] == [f"de-en ({last['accuracy']['de-en']:.2f})"]
    assert {"ae", "mt"} <= set(drawn["Training loss (nats per token)"])
    translated = invoke("translate", tmp_path / "run/best", "--from", "de", "--to", "en", input="The dog\n")
    assert translated.exit_code == 0, translated.output


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
