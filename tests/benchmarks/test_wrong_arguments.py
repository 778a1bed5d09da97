"""Wrong texts, models and targets of ``python -m benchmarks``. Oracle: one message, status 1, no work before it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main


def message_of(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert isinstance(result.exception, SystemExit), result.exception
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("Error: ") == 1
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.mark.parametrize("kind", ["tokenizer", "score"])
def test_wrong_texts_and_models(kind: str, demo: Path, tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"\xff\xfejunk\n")
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("the dog\n")
    shutil.copytree(demo, tmp_path / "model")
    vocabulary = tmp_path / "model" / "vocab.json"
    vocabulary.write_bytes(vocabulary.read_bytes()[:100])
    for model, text, said in (
        (demo, "junk", "UTF-"),
        (demo, "empty", "empty"),
        (tmp_path / "model", "text", "complete JSON"),
        ("./nothing", "text", "No such model"),
    ):
        size = ["--size", "small"] if kind == "score" else []
        assert said in message_of(kind, "--model", model, "--text", tmp_path / text, "--rounds", 1, *size)


@pytest.mark.parametrize("kind", ["load", "tokenizer", "forward", "score", "generate"])
def test_without_the_peer(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install 'xlm[transformers]'" in message_of(kind, "--against", "transformers")


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_a_target_that_cannot_be_written_is_told_before_the_work(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("it worked in vain")

    monkeypatch.setattr("benchmarks.checkpoints.bench_load", work)
    (tmp_path / "text").touch()
    for target, said in (("missing/file", "make the directory first"), ("text/file", "one of the parents is a file")):
        assert said in message_of("load", "--size", "small", "--rounds", 1, option, tmp_path / target)
    assert [path.name for path in tmp_path.iterdir()] == ["text"]
