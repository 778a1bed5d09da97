"""Rows of scores as lines of a table.

Oracle: what was put in, read back with Python's json and with pyarrow; for scores that are no numbers, the status.
"""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path
from typing import cast

import pytest
import torch

from tests.scoring.small import make_model
from xlm.model.head import LinearHead
from xlm.scoring.corpus import score_rows
from xlm.scoring.rows import Row
from xlm.scoring.scorer import Scorer
from xlm.scoring.sentence import SentenceScore
from xlm.scoring.table import TABLE_FORMATS, UNITS, Table
from xlm.tokenizer.tokenizer import XLMTokenizer

ROW = Row(file="a", number=1, text="the dog")


def scored(*logprobs: float) -> SentenceScore:
    n = len(logprobs)
    return SentenceScore(text="the dog", lang="en", tokens=("the</w>",) * n, ids=(20,) * n, logprobs=logprobs)


@pytest.mark.parametrize("form", ["tsv", "jsonl"])
@pytest.mark.parametrize("unit", UNITS)
def test_scores_that_are_no_numbers_are_an_error(tokenizer: XLMTokenizer, unit: str, form: str) -> None:
    model = make_model(tokenizer.vocab_size)
    with torch.no_grad():
        cast(LinearHead, model.head).bias[5] = math.nan
    rows = [ROW, Row(file="a", number=2, text="")]
    (window,) = score_rows(Scorer(model, tokenizer, lang="en"), rows, Table(unit=unit, form=form, bits=True))
    assert (window.rows, window.problems, window.tokens) == (2, 2, 0)
    lines = window.data.decode().splitlines()
    assert len(lines) == 2
    for line in lines:
        assert "nan" not in line.lower()
        assert "error: the scores are not finite" in line
        if form == "jsonl":
            assert json.loads(line)["logprob"] is None


def test_one_word_that_is_impossible_is_an_error_of_its_row_only(tokenizer: XLMTokenizer) -> None:
    model = make_model(tokenizer.vocab_size)
    with torch.no_grad():
        cast(LinearHead, model.head).bias[tokenizer.encode("dog", lang="en")[1]] = -math.inf
    rows = [ROW, Row(file="a", number=2, text="the cat")]
    (window,) = score_rows(Scorer(model, tokenizer, lang="en"), rows, Table(unit="sentence", form="jsonl"))
    first, second = map(json.loads, window.data.decode().splitlines())
    assert (first["status"], first["logprob"]) == ("error: the scores are not finite", None)
    assert second["status"] == "ok"
    assert window.problems == 1


def test_no_bits_are_not_less_than_none() -> None:
    (line,) = Table(unit="sentence", form="tsv", bits=True).lines(ROW, scored(0.0))
    assert line.split("\t")[2:4] == ["0.000000", "0.000000"]


def test_the_sum_of_a_long_text_is_exact() -> None:
    logprobs = tuple([-0.1] * 100_000)
    assert scored(*logprobs).logprob == math.fsum(logprobs) != sum(logprobs)


@pytest.mark.parametrize("form", TABLE_FORMATS)
def test_columns_are_made_once(form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    table = Table(unit="token", form=form, files=True, bits=True, ranks=True, entropies=True)
    expected = ("file", "line", "position", "id", "token", "logprob", "bits", "rank", "entropy", "status")
    assert table.columns == expected
    assert table.columns is table.columns


def test_parquet_takes_memory_by_bytes_and_not_by_rows(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = Table(unit="sentence", form="parquet")
    cells = {"line": 1, "tokens": 1, "logprob": -1.0, "text": "x" * 100_000, "status": "ok"}
    lines = tmp_path / "lines"
    lines.write_text((json.dumps(cells) + "\n") * 1000, encoding="utf-8")
    tracemalloc.start()
    table.to_parquet(lines, tmp_path / "out", metadata={"a": "b"})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # A hundred megabytes of lines, eight of which are held, as lines and as cells, old and new; all would be 200.
    assert peak < 60_000_000
    found = parquet.read_table(tmp_path / "out")
    assert found.to_pylist() == [cells] * 1000
    assert found.schema.metadata[b"a"] == b"b"
