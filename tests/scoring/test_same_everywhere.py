"""The same texts as a frame of pandas, a frame of polars, a table for Ray and a file for ``xlm score``.

Oracle: each of the four for the others; all columns and all digits must be equal.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from xlm import XLMTokenizer, XLMWithLMHeadModel, score, score_frame, score_stream
from xlm.cli import xlm
from xlm.distributed.steps import Scorer as RayScorer
from xlm.errors import InputError

pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

TEXTS = ["The dog is sleeping.", "", None, "Eine Frau, die\u00a0liest", 'the 漢 "dog"', "=1", "the " * 80]
WORDS: dict[str, list[Any]] = {
    "story": ["a"] * 4 + ["b"] * 2,
    "item": [1, 1, 1, 2, 3, 3],
    "word": ["The", "dog,", "", "null", "Eine", "Fr\u00e4u"],
    "before": ["A", None, "x", "", None, None],
    "language": ["en", "de", None, "", "de", "de"],
    "part": ["x", "x", "y", "y", "NA", "NA"],
}


@pytest.fixture(scope="module")
def pair(demo_files: Path) -> tuple[XLMWithLMHeadModel, XLMTokenizer]:
    return (
        XLMWithLMHeadModel.from_pretrained(demo_files / "demo.pth"),
        XLMTokenizer.from_pretrained(demo_files / "demo.pth", codes=demo_files / "codes"),
    )


def of_pandas(frame: Any) -> dict[str, list[Any]]:
    """The columns of a frame, without missing values of other kinds than ``None``."""
    return {
        name: [None if missing else cell for cell, missing in zip(cells.tolist(), cells.isna().tolist(), strict=True)]
        for name, cells in frame.items()
    }


def of_command(demo_files: Path, tmp_path: Path, columns: dict[str, list[Any]], *options: str) -> dict[str, list[Any]]:
    """The columns that ``xlm score`` writes of the rows of a file, without the number of the row."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.parquet"
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = ["score", demo_files / "demo.pth", "--codes", demo_files / "codes", "--lang", "en", source, *options]
    result = CliRunner().invoke(xlm, list(map(str, [*command, "--format", "parquet", "--output", target])))
    assert result.exit_code == 0, result.output
    table: dict[str, list[Any]] = parquet.read_table(target).to_pydict()
    del table["line"]
    return table


@pytest.mark.parametrize(("by", "options"), [("sentence", {}), ("token", {"ranks": True, "entropies": True})])
def test_texts(
    pair: tuple[XLMWithLMHeadModel, XLMTokenizer],
    demo_files: Path,
    tmp_path: Path,
    by: str,
    options: dict[str, Any],
) -> None:
    columns = {"text": TEXTS}
    found = of_pandas(score_frame(*pair, pandas.DataFrame(columns), lang="en", by=by, **options))
    assert score_frame(*pair, polars.DataFrame(columns), lang="en", by=by, **options).to_dict(as_series=False) == found
    arguments: dict[str, Any] = {"lang": "en", "by": by, "codes": str(demo_files / "codes"), **options}
    of_ray = RayScorer(str(demo_files / "demo.pth"), **arguments)(pyarrow.table(columns)).to_pydict()
    del of_ray["status"], found["status"]  # why a text is missing differs with the library that holds it
    assert list(of_ray) == list(found)
    assert of_ray == found
    flags = {"ranks": "--ranks", "entropies": "--entropy"}
    written = of_command(demo_files, tmp_path, columns, "--by", by, *map(flags.__getitem__, options))
    del written["status"], found["text"]
    written.pop("text", None)
    assert list(written) == list(found)
    assert written == found


def test_words_of_texts(pair: tuple[XLMWithLMHeadModel, XLMTokenizer], demo_files: Path, tmp_path: Path) -> None:
    texts = [text for text in TEXTS if text is not None]
    columns = {"n": [str(n) for n in range(len(texts))], "text": texts}
    found = of_pandas(score_frame(*pair, pandas.DataFrame(columns), lang="en", by="word", closing=False))
    result = score_frame(*pair, polars.DataFrame(columns), lang="en", by="word", closing=False)
    assert result.to_dict(as_series=False) == found
    written = of_command(demo_files, tmp_path, columns, "--keep-columns", "--by", "word", "--no-closing")
    assert list(written) == list(found)
    assert written == found


BY_WORD = {"word_column": "word", "group_by": "item"}
LAYOUTS: list[dict[str, Any]] = [
    BY_WORD,
    {**BY_WORD, "group_by": ["story", "item"], "lang_column": "language"},
    {**BY_WORD, "prefix_column": "before"},
    {**BY_WORD, "region_column": "part", "by": "region"},
    {"column": "word", "group_by": "story"},
    {"column": "word", "group_by": "story", "by": "token"},
    {"column": "word", "prefix_column": "before", "by": "word"},
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_rows_that_make_up_texts(
    pair: tuple[XLMWithLMHeadModel, XLMTokenizer], demo_files: Path, tmp_path: Path, layout: dict[str, Any]
) -> None:
    columns = {name if layout.get("by") != "word" else name.replace("word", "text"): WORDS[name] for name in WORDS}
    layout = {**layout, "column": "text"} if layout.get("by") == "word" else layout
    found = of_pandas(score_frame(*pair, pandas.DataFrame(columns), lang="en", **layout))
    result = score_frame(*pair, polars.DataFrame(columns), lang="en", **layout)
    assert result.to_dict(as_series=False) == found
    options = [
        part
        for name, value in layout.items()
        for each in ([value] if isinstance(value, str) else value)
        for part in (f"--{name.replace('_', '-')}", each)
    ]
    written = of_command(demo_files, tmp_path, columns, *options)
    assert list(written) == list(found)
    assert written == found


def test_frames_of_polars(pair: tuple[XLMWithLMHeadModel, XLMTokenizer]) -> None:
    frame = polars.DataFrame({"text": ["the dog"], "n": [1]})
    result = score_frame(*pair, frame, lang="en", by="token", top=2)
    (expected,) = score(*pair, ["the dog"], lang="en", top=2)
    assert [[tuple(each.values()) for each in cell] for cell in result["top"]] == list(map(list, expected.top or ()))
    texts: Any = frame["text"]
    whole: Any = score(*pair, texts, lang="en")
    assert whole["logprob"].to_list() == [expected.logprob]
    assert whole.columns == ["text", "tokens", "logprob", "unknown", "status"]
    assert score_frame(*pair, frame.clear(), lang="en").schema == score_frame(*pair, frame, lang="en").schema
    assert [result.text for result in score_stream(*pair, texts, lang="en")] == ["the dog"]
    for call, where in (
        (lambda: score_frame(*pair, frame.lazy(), lang="en"), "frame"),
        (lambda: score_stream(*pair, frame, lang="en"), "texts"),
        (lambda: score_frame(*pair, frame, lang="en", column="words"), "column"),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert caught.value.where == where


def test_a_table_for_excel_keeps_each_word(
    pair: tuple[XLMWithLMHeadModel, XLMTokenizer], demo_files: Path, tmp_path: Path
) -> None:
    """As docs/scoring.md makes it. Oracle: the XML of the file, read as such."""
    pytest.importorskip("xlsxwriter")
    words = ["=1+1", "Stra\u00dfe", "NA", "null", "1/2", "007", "https://x.y", "\u00a0x", 'q"', "@a", "TRUE"]
    scores = score_frame(*pair, pandas.DataFrame({"w": words}), lang="en", column="w")
    settings = {"options": {"strings_to_formulas": False, "strings_to_urls": False}}
    with pandas.ExcelWriter(tmp_path / "a.xlsx", engine="xlsxwriter", engine_kwargs=settings) as writer:
        scores.to_excel(writer, index=False)
    polars.from_pandas(scores).write_excel(tmp_path / "b.xlsx")
    for name in ("a.xlsx", "b.xlsx"):
        with zipfile.ZipFile(tmp_path / name) as file:
            shared = ElementTree.fromstring(file.read("xl/sharedStrings.xml"))
            sheet = ElementTree.fromstring(file.read("xl/worksheets/sheet1.xml"))
        strings = ["".join(text.itertext()) for text in shared]
        first = [row[0] for row in sheet.findall(".//{*}row")][1:]
        assert {cell.get("t") for cell in first} == {"s"}
        assert [strings[int("".join(cell.itertext()))] for cell in first] == words
