"""Oracle: what the results must satisfy whatever the machine; the commands on a small text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.tokenizers import bench_prepare, bench_tokenizer, bench_workers, tokenizer_directory
from tests.demo_files import write_demo_files
from tests.tokenizer.small import MERGES, TEXT, VOCABULARY
from xlm import XLMTokenizer
from xlm.checkpoint.resolve import bundled_models
from xlm.errors import CheckpointError, VocabularyError
from xlm.tokenizer.bpe import write_merges


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A directory with a tokenizer, a text, and an empty directory."""
    model, scratch, text = tmp_path / "model", tmp_path / "scratch", tmp_path / "text.txt"
    model.mkdir()
    scratch.mkdir()
    VOCABULARY.to_json(model / "vocab.json")
    write_merges(model / "merges.txt", MERGES)
    text.write_text(TEXT.replace(". ", ".\n") * 3, encoding="utf-8")
    return model, text, scratch


def test_against_transformers(files: tuple[Path, Path, Path]) -> None:
    pytest.importorskip("transformers")
    model, text, scratch = files
    report = bench_tokenizer(scratch, model=model, texts=[text, text], rounds=1, against="transformers")
    assert f"tokenizing {2 * len(text.read_text().splitlines())} lines" in report.title
    values = {figure.name: figure.median for figure in report.measurements}
    assert all(value > 0 for name, value in values.items() if "memory" not in name)
    assert sum("transformers" in name for name in values) == sum("encode_batch" in name for name in values) == 5
    differing = [target for target in report.targets if "differ" in target.name]
    assert len(differing) == 2
    assert all(target.value == 0 and target.holds for target in differing)
    # the limit is on the time of ours in times of theirs
    ratio = next(target for target in report.targets if "/ transformers, all lines" in target.name)
    ours, theirs = (
        next(value for name, value in values.items() if way in name and "all lines" in name)
        for way in ("encode_batch", "transformers")
    )
    assert ratio.value == pytest.approx(ours / theirs)
    assert ratio.limit == 1 / 20


def test_prepare(files: tuple[Path, Path, Path]) -> None:
    model, text, scratch = files
    report = bench_prepare(scratch, model=model, texts=[text], rounds=2, workers=2, megabytes=0.05)
    assert 40_000 < (scratch / "text").stat().st_size <= 50_000
    index = json.loads((scratch / "ids1/index.json").read_text(encoding="utf-8"))
    lines = index["splits"]["train"]["en"]["shards"][0]["lines"]
    assert lines == len((scratch / "text").read_text(encoding="utf-8").splitlines())
    assert all(figure.median > 0 and len(figure.values) == 2 for figure in report.measurements)


def test_several_processes(files: tuple[Path, Path, Path]) -> None:
    model, text, scratch = files
    report = bench_workers(scratch, model=model, texts=[text], rounds=1, workers=2, megabytes=0.05)
    assert (scratch / "text").stat().st_size >= 50_000
    one, two = (figure.median for figure in report.measurements)
    assert [target.value for target in report.targets] == [0, pytest.approx(two / one)]
    assert report.targets[1].limit == pytest.approx(1 / 1.8)


def test_command(files: tuple[Path, Path, Path]) -> None:
    model, text, _ = files
    arguments = ["tokenizer", "--model", str(model), "--text", str(text), "--rounds", "1"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "a loop of encode" in result.output
    assert CliRunner().invoke(main, [*arguments, "--workers", "2", "--against", "transformers"]).exit_code == 2
    assert CliRunner().invoke(main, ["load", "--workers", "2"]).exit_code == 2


def test_whose_tokenizer(tmp_path: Path) -> None:
    """What every other command takes; transformers reads what is made of a checkpoint of the original."""
    transformers = pytest.importorskip("transformers")
    files = write_demo_files(tmp_path)
    assert tokenizer_directory("xlm-clm-ende-small", None, tmp_path) == bundled_models()["xlm-clm-ende-small"]
    made = tokenizer_directory(str(files / "demo.pth"), files / "codes", tmp_path)
    ours = XLMTokenizer.from_pretrained(files / "demo.pth", codes=files / "codes", preset="transformers")
    text = "The Small dog is sleeping."
    assert XLMTokenizer.from_pretrained(made).encode(text) == ours.encode(text)
    assert transformers.XLMTokenizer.from_pretrained(made).encode(text) == ours.encode(text)
    with pytest.raises(VocabularyError, match="codes"):
        tokenizer_directory(str(files / "demo.pth"), None, tmp_path)
    with pytest.raises(CheckpointError, match="No such model"):
        tokenizer_directory("./nothing", None, tmp_path)
