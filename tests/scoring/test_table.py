"""Rows of scores as lines of a table.

Oracle: what was put in, read back with Python's json and with pyarrow; for scores that are no numbers, the status.
"""

from __future__ import annotations

import csv
import io
import json
import math
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.scoring.small import make_model, open_tokenizer
from xlm.corpus.rows import Corpus, Row
from xlm.corpus.tables import Cell, tsv_line
from xlm.errors import InputError
from xlm.model.head import LinearHead
from xlm.scoring.layout import Layout, TextScore
from xlm.scoring.scorer import Scorer, SentenceScore
from xlm.scoring.table import TABLE_FORMATS, UNITS, ScoreTable, scored_lines
from xlm.tokenizer.tokenizer import XLMTokenizer

ROW, LAYOUT = Row(file="a", number=1, text="the dog"), Layout(lang="en")


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
    lines = scored_lines(Scorer(model, tokenizer, lang="en"), rows, ScoreTable(unit=unit, format=form), LAYOUT)
    assert (lines.problems, lines.tokens) == (2, 0)
    texts = lines.data.decode().splitlines()
    assert len(texts) == 2
    for line in texts:
        assert "nan" not in line.lower()
        assert "error: the scores are not finite" in line
        if form == "jsonl":
            assert json.loads(line)["logprob"] is None


def test_one_word_that_is_impossible_is_an_error_of_its_row_only(tokenizer: XLMTokenizer) -> None:
    model = make_model(tokenizer.vocab_size)
    with torch.no_grad():
        cast(LinearHead, model.head).bias[tokenizer.encode("dog", lang="en")[1]] = -math.inf
    rows = [ROW, Row(file="a", number=2, text="the cat")]
    lines = scored_lines(Scorer(model, tokenizer, lang="en"), rows, ScoreTable(unit="sentence", format="jsonl"), LAYOUT)
    first, second = map(json.loads, lines.data.decode().splitlines())
    assert (first["status"], first["logprob"]) == ("error: the scores are not finite", None)
    assert second["status"] == "ok"
    assert lines.problems == 1


def lines_of(table: ScoreTable, row: Row, result: SentenceScore) -> list[str]:
    return [table.line(cells) for _, cells in table.rows(TextScore(result, [(row, table.cells_of(result)[0])]))]


def test_no_surprisal_is_not_less_than_none() -> None:
    (line,) = lines_of(ScoreTable(unit="sentence", format="tsv", kept=()), ROW, scored(0.0))
    assert line.split("\t")[1:3] == ["1", "0.000000"]


def test_the_sum_of_a_long_text_is_exact() -> None:
    logprobs = tuple([-0.1] * 100_000)
    assert scored(*logprobs).logprob == math.fsum(logprobs) != sum(logprobs)


NASTY = st.text(
    st.sampled_from('"\t\n\r\\ #,\x0b\x85\u2028\ufeffa1=ü漢\U0001f600') | st.characters(exclude_categories=["Cs"]),
    max_size=8,
) | st.sampled_from(["NA", "null", "nan", "None", "", '"Well,', 'NA,"', "1", "1e5", "true", "-inf", "\\t"])


def table_of(texts: list[str]) -> str:
    table = ScoreTable(unit="sentence", format="tsv")
    rows = [Row(file="a", number=number, text=text) for number, text in enumerate(texts, start=1)]
    results = [replace(scored(-1.0), text=text) for text in texts]
    pairs = zip(rows, results, strict=True)
    return table.header + "".join(line for row, result in pairs for line in lines_of(table, row, result))


@settings(deadline=None, max_examples=300)
@given(texts=st.lists(NASTY, min_size=1, max_size=5))
@example(texts=["NA", "null", "nan", "None", "", '"', '""', "\r", "\n", " a ", "\u2028", "#"])
def test_tsv_is_read_by_the_defaults_of_other_programs(texts: list[str]) -> None:
    """Python's own csv stands for R, whose readers quote by the same rule."""
    written = table_of(texts)
    if not any("\x00" in text for text in texts):  # which Python 3.10 does not read
        rows = list(csv.DictReader(io.StringIO(written, newline=""), dialect="excel-tab"))
        assert [row["text"] for row in rows] == texts
        assert [row["line"] for row in rows] == [str(number) for number in range(1, len(texts) + 1)]
    pandas = pytest.importorskip("pandas")
    by_default = pandas.read_csv(io.StringIO(written), sep="\t")
    assert by_default["line"].tolist() == list(range(1, len(texts) + 1))
    assert by_default["tokens"].tolist() == [1] * len(texts)
    as_texts = pandas.read_csv(io.StringIO(written), sep="\t", keep_default_na=False, dtype={"text": str})
    assert as_texts["text"].tolist() == texts


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(NASTY.filter(lambda text: not set(text) & set("\n\x00")), min_size=1, max_size=5))
def test_tsv_is_read_back_as_an_input(tmp_path: Path, texts: list[str]) -> None:
    path = tmp_path / "out.tsv"
    path.write_bytes(table_of(texts).encode())
    assert [row.text for row in Corpus([path])] == texts


def test_a_line_feed_in_a_cell_of_tsv_is_no_text_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "out.tsv"
    path.write_bytes(table_of(["the dog", "two\nlines", '"', "the cat"]).encode())
    assert [row.text for row in Corpus([path])] == ["the dog", None, None, '"', "the cat"]


def test_quotes_of_raw_tsv_stay_where_they_enclose_no_cell(tmp_path: Path) -> None:
    texts = ['"I came.', 'I saw."', '"Well," he said. "Go now."', 'a "b" c', '"', '"a"b"']
    path = tmp_path / "raw.tsv"
    path.write_text("".join(f"{text}\t1\n" for text in ["text", *texts]), encoding="utf-8")
    assert [row.text for row in Corpus([path])] == texts


def test_ordinary_cells_are_written_as_they_are() -> None:
    cells: list[Cell] = ["a", 1, -1.5, None, True, False, "it's", "\\t", " b ", "a,b;c"]
    assert tsv_line(cells) == "a\t1\t-1.500000\t\t1\t0\tit's\t\\t\t b \ta,b;c\n"
    assert tsv_line(['"', "a\tb", "a\nb", "a\rb"]) == '""""\t"a\tb"\t"a\nb"\t"a\rb"\n'


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("preset", ["original", "transformers"])
def test_unknown_tokens_have_a_column(demo_files: Path, unit: str, preset: str) -> None:
    """Against the ids."""
    tokenizer = open_tokenizer(demo_files, preset=preset)
    rows = [
        Row(file="a", number=n, text=text) for n, text in enumerate(["the 漢 dog", "the dog", "the <unk> dog", ""], 1)
    ]
    ids = [tokenizer.encode(row.text or "", lang="en")[1:] for row in rows]
    counts = [each.count(tokenizer.unk_token_id) for each in ids]
    assert [count > 0 for count in counts] == [True, False, True, False]
    table = ScoreTable(unit=unit, format="jsonl")
    lines = scored_lines(Scorer(make_model(tokenizer.vocab_size), tokenizer, lang="en"), rows, table, LAYOUT)
    assert lines.counts == {"unknown": sum(counts)}
    found = [json.loads(line) for line in lines.data.splitlines()]
    of_line = [[each["unknown"] for each in found if each["line"] == number] for number in (1, 2, 3, 4)]
    if unit == "sentence":
        assert of_line == [[count] for count in counts]
    elif unit == "token":
        assert of_line == [[index == tokenizer.unk_token_id for index in each] for each in ids]
    else:
        assert of_line[0][1] is of_line[2][1] is True
        assert [sum(each) for each in of_line] == [1, 0, 1, 0]


@pytest.mark.parametrize("unit", ["letter", ["word"], None])
def test_a_unit_that_there_is_not_is_refused(unit: Any) -> None:
    with pytest.raises(InputError, match="No such unit"):
        ScoreTable(unit=unit, format="tsv")


@pytest.mark.parametrize("form", TABLE_FORMATS)
def test_columns_are_made_once(form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    table = ScoreTable(unit="token", format=form, files=True, ranks=True, entropies=True)
    expected = ("file", "line", "position", "id", "token", "logprob", "rank", "entropy", "unknown", "status")
    assert tuple(table.columns) == expected
    assert table.columns is table.columns


def test_parquet_takes_memory_by_bytes_and_not_by_rows(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = ScoreTable(unit="sentence", format="parquet")
    cells = {"line": 1, "tokens": 1, "logprob": -1.0, "unknown": 0, "text": "x" * 100_000, "status": "ok"}
    lines = tmp_path / "lines"
    lines.write_text((json.dumps(cells) + "\n") * 1000, encoding="utf-8")
    tracemalloc.start()
    table.write_parquet(lines, tmp_path / "out", metadata={"a": "b"})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # A hundred megabytes of lines, eight of which are held, as lines and as cells, old and new; all would be 200.
    assert peak < 60_000_000
    found = parquet.read_table(tmp_path / "out")
    assert found.to_pylist() == [cells] * 1000
    assert found.schema.metadata[b"a"] == b"b"
