"""Oracle: equal outputs of the two libraries, and what the results must satisfy; at the small size."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from torch import Tensor

from benchmarks.__main__ import main
from benchmarks.models import SIZES
from benchmarks.translation import _count_differing, _sources, bench_translate, random_translator, translate


def test_translate(tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2")
    report = bench_translate(tmp_path, size="small", rounds=1, against="ctranslate2", rows=(1, 4))
    speeds = [figure for figure in report.measurements if figure.unit == "tokens/s"]
    assert len(speeds) == 2 * 2 * 2 * 2
    assert all(value > 0 for figure in speeds for value in figure.values)
    assert len(report.targets) == 2 * 2  # in float32
    assert all(target.holds for target in report.targets), report


def test_command() -> None:
    arguments = ["translate", "--size", "small", "--rounds", "1", "--rows", "2", "--beams", "2", "--weights", "int8"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "xlm int8, beam 2, batch 2" in result.stdout


def test_without_the_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = CliRunner().invoke(main, ["translate", "--against", "ctranslate2"])
    assert result.exit_code == 1
    assert "pip install ctranslate2" in result.stderr


def test_random_sentences_end_at_several_lengths_and_depend_on_their_source() -> None:
    model = random_translator(SIZES["small"])
    ids_BS, lengths_B = _sources(model.config, 16)
    words = translate(model, _rows(ids_BS, lengths_B), 1)
    assert len(set(words)) > 4
    assert len(set(map(len, words))) > 1


def _rows(ids_BS: Tensor, lengths_B: Tensor) -> list[list[int]]:
    return [row[:length] for row, length in zip(ids_BS.tolist(), lengths_B.tolist(), strict=True)]


def test_a_translation_with_another_word_counts() -> None:
    model = random_translator(SIZES["small"])
    ids_BS, lengths_B = _sources(model.config, 2)
    words = translate(model, _rows(ids_BS, lengths_B), 1)
    other = [words[0], (*words[1][:-1], 100)]
    assert _count_differing(model, ids_BS, lengths_B, words, words) == 0
    assert _count_differing(model, ids_BS, lengths_B, words, other) == 1
