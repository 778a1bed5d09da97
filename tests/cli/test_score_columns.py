"""``xlm score`` on documents and on tables whose columns are kept.

Oracle: the library's scores of the same words, texts and documents, which its own tests compare with a plain loop; and
the cells that were written to the input.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Invoke
from xlm import XLMTokenizer, XLMWithLMHeadModel, score, score_documents
from xlm.scoring.scorer import SentenceScore

WORDS = {  # the words of each sentence of each story
    ("a", "1"): ["The", "dog,", "", "\u00a0", 'said\u00a0"no"', "null"],
    ("a", "2"): ["It", "\x07", "(\u2026)", "\u6f22."],
    ("b", "2"): ["A"],
    ("b", "3"): ["cat", "two\nlines", "a\tb"],
}
TABLE = [
    {"story": story, "sentence": sentence, "word": word, "rt": f"{300 + place}.50", "part": "xxyyz!"[place]}
    for (story, sentence), words in WORDS.items()
    for place, word in enumerate(words)
]


@pytest.fixture
def arguments(demo_files: Path) -> tuple[Path | str, ...]:
    return "score", demo_files / "demo.pth", "--codes", demo_files / "codes", "--lang", "en"


@pytest.fixture
def scored(demo_files: Path) -> Callable[..., Any]:
    tokenizer = XLMTokenizer.from_pretrained(demo_files / "demo.pth", codes=demo_files / "codes")
    model = XLMWithLMHeadModel.from_pretrained(demo_files / "demo.pth")
    return lambda function, *texts, **options: function(model, tokenizer, *texts, **{"lang": "en", **options})


def table_file(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    return path


def rows_of(output: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(output, newline=""), dialect="excel-tab"))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("groups", [["sentence"], ["story", "sentence"]], ids=["texts", "documents"])
def test_one_word_a_row_comes_back_with_its_columns(
    invoke: Invoke,
    arguments: tuple[Path | str, ...],
    scored: Callable[..., Any],
    tmp_path: Path,
    suffix: str,
    groups: list[str],
) -> None:
    file = table_file(tmp_path / f"words{suffix}", TABLE)
    options = [option for group in groups for option in ("--group-by", group)]
    output = invoke(*arguments, file, "--word-column", "word", *options)
    assert output.exit_code == 0, output.output
    rows = rows_of(output.stdout)
    kept = list(TABLE[0])
    assert list(rows[0]) == [
        *("line", *kept, "word_number", "start", "end", "tokens", "surprisal"),
        *("surprisal_without_punctuation", "unknown", "status"),
    ]
    assert [{name: row[name] for name in kept} for row in rows] == TABLE
    if len(groups) == 1:  # consecutive rows with the same sentence: 2 of story a and 2 of story b are one text
        texts = [WORDS["a", "1"], [*WORDS["a", "2"], *WORDS["b", "2"]], WORDS["b", "3"]]
        results = scored(score, [" ".join(words) for words in texts], words=texts)
    else:
        documents = [[WORDS["a", "1"], WORDS["a", "2"]], [WORDS["b", "2"], WORDS["b", "3"]]]
        joined = [[" ".join(words) for words in document] for document in documents]
        results = [result for each in scored(score_documents, joined, words=documents) for result in each]
    expected = [(number, word) for result in results for number, word in enumerate(result.words, start=1)]
    for row, (number, word) in zip(rows, expected, strict=True):
        assert (row["word"], row["status"]) == (word.text, "ok")
        assert [row[name] for name in ("word_number", "start", "end", "tokens")] == [
            str(value) for value in (number, word.start, word.end, word.tokens)
        ]
        assert float(row["surprisal"]) == pytest.approx(word.surprisal, abs=2e-6)
        assert float(row["surprisal_without_punctuation"]) == pytest.approx(
            word.surprisal_without_punctuation, abs=2e-6
        )


def test_labels_of_words_are_regions(
    invoke: Invoke, arguments: tuple[Path | str, ...], scored: Callable[..., Any], tmp_path: Path
) -> None:
    file = table_file(tmp_path / "words.tsv", [row for row in TABLE if "\t" not in row["word"]][:6])
    options = ("--word-column", "word", "--group-by", "sentence", "--by", "region", "--region-column", "part")
    rows = rows_of(invoke(*arguments, file, *options).stdout)
    words = WORDS["a", "1"]
    (result,) = scored(score, [" ".join(words)], words=[words])
    sums = [sum(word.surprisal for word in result.words[place]) for place in (slice(2), slice(2, 4), slice(4, 5))]
    assert [row["part"] for row in rows] == ["x", "y", "z", "!"]
    assert [row["region_number"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["line"] for row in rows] == ["1", "3", "5", "6"]
    assert [float(row["surprisal"]) for row in rows][:3] == pytest.approx(sums, abs=2e-6)
    assert (rows[0]["start"], rows[0]["end"]) == ("0", "8")


DOCUMENTS = [["The small dog", "A cat."], ["the dog"], ["the grass is small" * 4, "the"]]
LINES = ["The small dog", "A cat.", " ", "", "the dog", "", "the grass is small" * 4, "the"]


def test_blank_lines_separate_documents(
    invoke: Invoke, arguments: tuple[Path | str, ...], scored: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "text"
    file.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    output = invoke(*arguments, file, "--documents", "--stride", 3)
    rows = rows_of(output.stdout)
    results: list[SentenceScore] = [result for each in scored(score_documents, DOCUMENTS, stride=3) for result in each]
    assert [row["text"] for row in rows] == [result.text for result in results]
    assert [row["line"] for row in rows] == ["1", "2", "5", "7", "8"]
    assert [float(row["logprob"]) for row in rows] == pytest.approx([r.logprob for r in results], abs=2e-6)
    assert "protocol:document|" in output.stderr
    by_column = [{"n": str(number), "text": text} for number, document in enumerate(DOCUMENTS) for text in document]
    table = table_file(tmp_path / "table.csv", by_column)
    rows = rows_of(invoke(*arguments, table, "--group-by", "n", "--stride", 3, "--by", "word").stdout)
    assert list(rows[0])[:5] == ["line", "n", "text", "word_number", "word"]
    words = [(word.text, word.surprisal) for result in results for word in (*result.words, None) if word]
    found = [(row["word"], float(row["surprisal"])) for row in rows if row["word"] != "</s>"]
    assert [text for text, _ in found] == [text for text, _ in words]
    assert [value for _, value in found] == pytest.approx([value for _, value in words], abs=2e-6)


@pytest.mark.parametrize("read_ahead", [1, 2, 4096])
def test_a_document_is_never_divided_and_a_killed_run_goes_on(
    invoke: Invoke, arguments: tuple[Path | str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_ahead: int
) -> None:
    from xlm._io.resumable import ResumableFile

    file, output = tmp_path / "text", tmp_path / "scores.tsv"
    file.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    options = (*arguments, file, "--documents", "--read-ahead", read_ahead)
    expected = invoke(*options).stdout
    append, calls = ResumableFile.append, iter(range(99))

    def killed(self: ResumableFile, *values: Any, **counts: Any) -> None:
        if next(calls) == 2:
            raise KeyboardInterrupt
        append(self, *values, **counts)

    with monkeypatch.context() as patch:
        patch.setattr(ResumableFile, "append", killed)
        first = invoke(*options, "--output", output)
    assert (first.exit_code == 0) == (read_ahead == 4096)  # the header and one window
    assert invoke(*options, "--output", output, "--resume").exit_code == 0
    assert output.read_text(encoding="utf-8") == expected
    other = invoke(*arguments, file, "--read-ahead", read_ahead, "--output", output, "--resume")
    assert other.exit_code == 1


def test_prefixes_languages_and_regions(
    invoke: Invoke, arguments: tuple[Path | str, ...], scored: Callable[..., Any], tmp_path: Path
) -> None:
    rows = [
        {"text": "dog is", "before": "The small", "lang": "de", "spans": "0-3, 4:6"},
        {"text": "A cat", "before": "", "lang": "", "spans": ""},
        {"text": "the dog", "before": "", "lang": "en de", "spans": "0-7"},
        {"text": "the dog", "before": "A", "lang": "en de", "spans": "0-99"},
        {"text": "the dog", "before": "", "lang": "xx", "spans": "no"},
    ]
    file = table_file(tmp_path / "table.csv", rows)
    options = ("--prefix-column", "before", "--lang-column", "lang", "--no-closing")
    found = rows_of(invoke(*arguments, file, *options).stdout)
    expected = [
        result
        for row, lang in zip(rows, ["de", "en", ["en", "de"]], strict=False)
        for result in scored(score, [row["text"]], prefixes=[row["before"]], lang=[lang], closing=False)
    ]
    assert [float(row["surprisal"]) for row in found[:3]] == pytest.approx([-r.logprob for r in expected], abs=2e-6)
    assert [{name: row[name] for name in rows[0]} for row in found] == rows
    assert [row["status"].split(":")[0] for row in found] == ["ok", "ok", "ok", "error", "error"]
    assert "each word needs a language" in found[3]["status"]
    found = rows_of(invoke(*arguments, file, "--by", "region", "--region-column", "spans").stdout)
    assert [row["line"] for row in found] == ["1", "1", "2", "3", "4", "5"]
    assert [row["status"].split(":")[0] for row in found] == ["ok"] * 4 + ["error"] * 2
    (whole,) = scored(score, ["the dog"], regions=[[(0, 7)]])
    assert float(found[3]["surprisal"]) == pytest.approx(whole.regions[0].surprisal, abs=2e-6)


def test_a_row_that_cannot_be_read_makes_its_group_say_so(
    invoke: Invoke, arguments: tuple[Path | str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "table.tsv"
    file.write_bytes(b"n\ttext\n1\tthe\n1\t\xff\n1\tdog\n2\tcat\n")
    output = invoke(*arguments, file, "--group-by", "n")
    assert [row["status"].split(",")[0] for row in rows_of(output.stdout)] == [
        "error: row 2",
        "error: not UTF-8: byte 0xff at byte 1 of the column 'text'",
        "error: row 2",
        "ok",
    ]
    assert "3 rows could not be scored" in output.stderr


def test_blank_cells_separate_documents_of_tables(
    invoke: Invoke, arguments: tuple[Path | str, ...], scored: Callable[..., Any], tmp_path: Path
) -> None:
    file = table_file(tmp_path / "table.jsonl", [{"text": line, "n": place} for place, line in enumerate(LINES)])
    rows = rows_of(invoke(*arguments, file, "--documents", "--keep-columns").stdout)
    results = [result for each in scored(score_documents, DOCUMENTS) for result in each]
    assert [row["n"] for row in rows] == ["0", "1", "4", "6", "7"]
    assert [float(row["surprisal"]) for row in rows] == pytest.approx([-r.logprob for r in results], abs=2e-6)


def test_an_unreadable_first_row_makes_its_document_say_so(
    invoke: Invoke, arguments: tuple[Path | str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "text"
    file.write_bytes(b"\xff\ndog\n\n\xff\ncat\n\nthe\n")
    rows = rows_of(invoke(*arguments, file, "--documents").stdout)
    unreadable = "error: not UTF-8: byte 0xff at byte 1 of the line"
    assert [(row["line"], row["status"].split(",")[0]) for row in rows] == [
        *(("1", unreadable), ("2", "error: row 1"), ("4", unreadable), ("5", "error: row 4"), ("7", "ok"))
    ]


@pytest.mark.parametrize("cell", ["1-2-3", "10-20-30", "0-1x", "0-1 2", "0-1   " * 40 + "x"])
def test_a_cell_of_spans_is_read_whole_or_refused(
    invoke: Invoke, arguments: tuple[Path | str, ...], tmp_path: Path, cell: str
) -> None:
    file = table_file(tmp_path / "table.csv", [{"text": "the dog is sleeping on the small grass", "spans": cell}])
    (row,) = rows_of(invoke(*arguments, file, "--by", "region", "--region-column", "spans").stdout)
    assert row["status"].startswith("error: a region is not a span of the text")


def test_every_file_must_have_the_columns(invoke: Invoke, arguments: tuple[Path | str, ...], tmp_path: Path) -> None:
    files = [
        table_file(tmp_path / "one.csv", [{"text": "the dog", "before": "A"}]),
        table_file(tmp_path / "two.csv", [{"text": "the dog"}]),
    ]
    output = invoke(*arguments, *files, "--prefix-column", "before")
    assert output.exit_code == 1
    assert "two.csv" in output.stderr
    assert "No such column" in output.stderr
    assert invoke(*arguments, *files, "--keep-columns").exit_code == 0


@pytest.mark.parametrize("missing", [None, "", math.nan])
def test_a_missing_prefix_or_language_is_an_empty_one(
    invoke: Invoke, arguments: tuple[Path | str, ...], scored: Callable[..., Any], tmp_path: Path, missing: Any
) -> None:
    rows: list[dict[str, Any]] = [{"text": "the dog", "before": missing, "lang": missing}]
    rows.append({"text": "the dog", "before": 5, "lang": "de"})
    file = table_file(tmp_path / "table.jsonl", rows)
    found = rows_of(invoke(*arguments, file, "--prefix-column", "before", "--lang-column", "lang").stdout)
    expected = scored(score, ["the dog"] * 2, prefixes=["", "5"], lang=["en", "de"])
    assert [float(row["surprisal"]) for row in found] == pytest.approx([-r.logprob for r in expected], abs=2e-6)


def test_a_key_that_the_first_row_lacks_is_named(
    invoke: Invoke, arguments: tuple[Path | str, ...], tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [{"text": "the dog"}, {"text": "A cat", "later": 1}]
    output = invoke(*arguments, table_file(tmp_path / "table.jsonl", rows), "--keep-columns")
    assert "lacks are dropped: 'later'" in output.stderr
    assert [row["status"] for row in rows_of(output.stdout)] == ["ok", "ok"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_read_once(invoke: Invoke, arguments: tuple[Path | str, ...], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    text = "n,text\n" + "".join(f"{number},the dog\n" for number in range(9))
    writer = threading.Thread(target=(tmp_path / "pipe.csv").write_text, args=[text])
    writer.start()
    rows = rows_of(invoke(*arguments, tmp_path / "pipe.csv", "--keep-columns").stdout)
    writer.join()
    assert [row["n"] for row in rows] == list(map(str, range(9)))


def test_top_and_no_closing_without_columns(
    invoke: Invoke, arguments: tuple[Path | str, ...], scored: Callable[..., Any]
) -> None:
    options = ("--by", "token", "--top", 2, "--no-closing")
    (result,) = scored(score, ["the dog"], top=2, closing=False)
    for form in ("tsv", "jsonl"):
        output = invoke(*arguments, *options, "--format", form, input="the dog\n")
        lines = rows_of(output.stdout) if form == "tsv" else map(json.loads, output.stdout.splitlines())
        found = [json.loads(row["top"]) if form == "tsv" else row["top"] for row in lines]
        assert found == [[[token, pytest.approx(value, abs=1e-6)] for token, value in top] for top in result.top]
    assert "protocol:sentence without </s>|" in output.stderr
    words = rows_of(invoke(*arguments, "--by", "word", "--no-closing", input="the dog\n").stdout)
    assert [row["text"] for row in words] == ["the", "dog"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--word-column", "text"], "Words need the column"),
        (["--word-column", "text"], "--group-by NAME"),
        (
            ["--word-column", "text", "--group-by", "n", "--by", "token"],
            "One word a row gives scores of words or regions",
        ),
        (["--word-column", "text", "--group-by", "n", "--column", "text"], "exclude each other"),
        (["--documents", "--group-by", "n"], "Blank rows and a column both mark documents"),
        (["--group-by", "n", "--group-by", "text"], "Too many columns"),
        (["--by", "region"], "Regions need their column"),
        (["--by", "region"], "--region-column NAME"),
        (["--region-column", "n"], "Regions need their column"),
        (["--top", "2"], "--top requires --by token, word or region"),
        (["--keep-columns", "-"], "Plain text has no columns"),
        (["--split-sentences", "--word-column", "text", "--group-by", "n"], "Only texts without words"),
        (["--split-sentences", "--prefix-column", "n"], "Only texts without words"),
    ],
)
def test_wrong_usage(
    invoke: Invoke, arguments: tuple[Path | str, ...], tmp_path: Path, options: list[str], message: str
) -> None:
    file = table_file(tmp_path / "table.csv", [{"n": "1", "text": "the dog"}])
    output = invoke(*arguments, file, *options)
    assert (output.exit_code, message in " ".join(output.stderr.split())) == (2, True), output.stderr


def test_wrong_columns(invoke: Invoke, arguments: tuple[Path | str, ...], tmp_path: Path) -> None:
    file = table_file(tmp_path / "table.csv", [{"tokens": "1", "text": "the dog"}])
    for options, message in (
        (["--group-by", "n"], "No such column"),
        (["--keep-columns"], "The input has columns with the names of new ones"),
    ):
        output = invoke(*arguments, file, *options)
        assert (output.exit_code, message in output.stderr) == (1, True), output.stderr
    plain = tmp_path / "text"
    plain.write_text("the dog\n", encoding="utf-8")
    output = invoke(*arguments, plain, "--keep-columns")
    assert (output.exit_code, "Plain text has no columns" in output.stderr) == (2, True)


def test_numbers_stay_numbers_in_formats_with_types(
    invoke: Invoke, arguments: tuple[Path | str, ...], tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows: list[dict[str, Any]] = [
        {"n": 1, "x": 0.12345678912, "b": True, "s": "1", "m": 1, "o": None, "l": [1, "\ud800"], "text": "the"},
        {"n": None, "x": 2, "b": None, "s": "2", "m": "two", "o": None, "l": {"a": 2}, "text": "dog"},
        {"n": 3, "x": math.nan, "b": False, "s": None, "m": 2**70, "o": None, "l": None, "text": "A"},
    ]
    file = table_file(tmp_path / "table.jsonl", rows)
    (tmp_path / "table.jsonl").write_text(file.read_text(encoding="utf-8") + "broken\n", encoding="utf-8")
    lines = invoke(*arguments, file, "--keep-columns", "--format", "jsonl").stdout.splitlines()
    found = [json.loads(line) for line in lines]
    for row, cells in zip(rows, found, strict=False):
        row = {**row, "l": [1, "?"] if row["n"] == 1 else row["l"], "x": None if row["n"] == 3 else row["x"]}
        assert {name: cells[name] for name in row} == row
    assert found[3]["status"].startswith("error")
    for name, data in (("out", file), ("again", tmp_path / "out.parquet")):
        output = tmp_path / f"{name}.parquet"
        if name == "again":  # a table of results can be scored again, without its scores
            table = parquet.read_table(data).select(list(rows[0])).slice(0, 3)
            parquet.write_table(table, tmp_path / "kept.parquet")
            data = tmp_path / "kept.parquet"
        invoke(*arguments, data, "--keep-columns", "--format", "parquet", "--output", output)
        cells = parquet.read_table(output).to_pydict()
        assert cells["n"][:3] == [1, None, 3]
        assert cells["x"][:3] == [0.12345678912, 2.0, None]
        assert cells["b"][:3] == [True, None, False]
        assert cells["s"][:3] == ["1", "2", None]
        assert cells["m"][:3] == ["1", "two", str(2**70)]
        assert cells["l"][1:3] == ['{"a": 2}', None]
    # Whole numbers that a float would round stay as they are, alone and beside floats.
    long = [{"a": 2**53 + 1, "b": 2**62 + 1, "c": 1, "text": "the"}, {"a": 0.5, "b": 1, "c": 2**53 + 1, "text": "dog"}]
    data = table_file(tmp_path / "long.jsonl", long)
    assert invoke(*arguments, data, "--keep-columns", "--format", "parquet", "--output", output).exit_code == 0
    cells = parquet.read_table(output).to_pydict()
    assert (cells["a"], cells["b"], cells["c"]) == ([str(2**53 + 1), "0.5"], [2**62 + 1, 1], [1, 2**53 + 1])
    shown = rows_of(invoke(*arguments, file, "--keep-columns").stdout)
    assert [row["x"] for row in shown] == ["0.12345678912", "2", "NaN", ""]


@pytest.mark.parametrize("options", [("--by", "token"), ("--by", "word"), ("--keep-columns",), ("--by", "sentence")])
def test_a_table_in_bits(invoke: Invoke, arguments: tuple[Any, ...], tmp_path: Path, options: tuple[str, ...]) -> None:
    file = table_file(tmp_path / "table.jsonl", [{"entropy_reduction": 1.0, "text": 'the "dog"'}])
    places = ("--ranks", "--entropy", "--top", "2") if options[-1] in ("token", "word") else ()
    command = [*arguments, file, *options, *places, "--format", "jsonl"]
    nats, bits = (invoke(*command, "--unit", unit) for unit in ("nats", "bits"))
    assert [result.stderr.rstrip().rsplit("|", 2)[1] for result in (nats, bits)] == ["unit:nats", "unit:bits"]
    for line, other in zip(nats.stdout.splitlines(), bits.stdout.splitlines(), strict=True):
        row, found = json.loads(line), json.loads(other)
        assert list(row) == list(found)
        changed = {"logprob", "surprisal", "entropy"} | (
            {"entropy_reduction"} if "--keep-columns" not in options else set()
        )
        for name, cell in row.items():
            if name == "top":
                assert found[name] == [[token, pytest.approx(each / math.log(2), abs=2e-6)] for token, each in cell]
            elif name in changed and cell is not None:
                assert found[name] == pytest.approx(cell / math.log(2), abs=2e-6)
            else:
                assert found[name] == cell
    assert invoke(*command, "--bits").stdout == bits.stdout


def test_rows_without_text_keep_their_columns(invoke: Invoke, arguments: tuple[Any, ...], tmp_path: Path) -> None:
    rows = [{"file": "a", "text": "the"}, {"file": "b", "text": None}, {"file": "c"}]
    for name in ("table.jsonl", "table.parquet"):
        file = tmp_path / name
        if name.endswith("jsonl"):
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        else:
            parquet = pytest.importorskip("pyarrow.parquet")
            parquet.write_table(pytest.importorskip("pyarrow").Table.from_pylist(rows), file)
        found = rows_of(invoke(*arguments, file, "--keep-columns").stdout)
        assert [(row["file"], row["status"][:5]) for row in found] == [("a", "ok"), ("b", "error"), ("c", "error")]
    file = tmp_path / "table.csv"
    file.write_bytes(b"text,file\nthe,a\n\xff,b\nthe,\xff\nthe,a,b\n\n")
    found = rows_of(invoke(*arguments, file, "--keep-columns").stdout)
    kept = [("the", "a"), ("", "b"), ("the", ""), ("", ""), ("", "")]
    assert [(row["text"], row["file"]) for row in found] == kept
    assert [row["status"][:5] for row in found] == ["ok", *["error"] * 4]


def test_a_row_without_a_word_belongs_to_its_own_text(
    invoke: Invoke, arguments: tuple[Any, ...], tmp_path: Path
) -> None:
    rows = [{"item": item, "word": word} for item, word in ((1, "the"), (2, None), (2, "dog"), (3, "A"))]
    lines = ["broken", *map(json.dumps, rows)]
    (tmp_path / "table.jsonl").write_text("\n".join(lines), encoding="utf-8")
    output = invoke(*arguments, tmp_path / "table.jsonl", "--word-column", "word", "--group-by", "item").stdout
    # The line that cannot be read may be a word of the first text, but not of the others.
    assert [row["status"][:5] for row in rows_of(output)] == [*["error"] * 4, "ok"]


def word_rows(*labels: str) -> list[dict[str, Any]]:
    texts = [("the", "dog"), ("A", "cat"), ("the", "dog")]
    return [
        {"item": label[0], "part": label[1:], "word": word}
        for label, words in zip(labels, texts, strict=False)
        for word in words
    ]


@pytest.mark.parametrize(
    ("labels", "groups", "message"),
    [
        (("a1", "b1", "a1"), ["item"], "row 5: 'a' in column 'item' occurs again"),
        (("a1", "a2", "a1"), ["item", "part"], "row 5: '1' in column 'part' occurs twice in one document"),
        (("a1", "b1", "c1"), ["item"], None),
        (("a1", "a2", "b1"), ["item", "part"], None),
    ],
)
def test_labels_that_occur_again_warn(
    invoke: Invoke,
    arguments: tuple[Path | str, ...],
    tmp_path: Path,
    labels: tuple[str, ...],
    groups: list[str],
    message: str | None,
) -> None:
    file = table_file(tmp_path / "table.csv", word_rows(*labels))
    options = [option for group in groups for option in ("--group-by", group)]
    output = invoke(*arguments, file, "--word-column", "word", *options)
    assert len(rows_of(output.stdout)) == 6
    text = " ".join(output.stderr.split())
    assert message in text if message else "occurs" not in text


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("groups", [["item"], ["story", "item"]], ids=["texts", "documents"])
def test_numbers_that_are_nan_are_one_label(
    invoke: Invoke, arguments: tuple[Path | str, ...], tmp_path: Path, suffix: str, groups: list[str]
) -> None:
    """A table with NaN as a label is scored as one with another number there."""
    words = ["the", "dog", "is", "small", "a", "cat"]
    items, parts = [1.0, 1.0, math.nan, math.nan, math.nan, 2.0], [1.0, 2.0, math.nan, math.nan, 3.0, 3.0]
    options = [option for group in groups for option in ("--group-by", group)]
    found = []
    for missing in (math.nan, 9.0):
        rows = [
            {"story": 1.0, "word": word, **{n: missing if math.isnan(v) else v for n, v in labels.items()}}
            for word, *values in zip(words, items, parts, strict=True)
            for labels in [dict(zip(("item", "part"), values, strict=True))]
        ]
        file = table_file(tmp_path / f"{missing}{suffix}", rows)
        for by in (["--by", "region", "--region-column", "part"], ["--by", "word"]):
            output = invoke(*arguments, file, "--word-column", "word", *options, *by)
            assert output.exit_code == 0, output.output
            assert "Warning" not in output.stderr
            lines = rows_of(output.stdout)
            assert len(lines) == (5 if by[1] == "region" else 6)  # the part goes on in another text
            found.append([{n: row[n] for n in row if n not in ("item", "part")} for row in lines])
    assert found[:2] == found[2:]


def test_two_readers_of_one_text_warn(invoke: Invoke, arguments: tuple[Path | str, ...], tmp_path: Path) -> None:
    file = table_file(tmp_path / "table.csv", word_rows("a1", "b1")[:2] * 2)
    output = invoke(*arguments, file, "--word-column", "word", "--group-by", "item")
    assert "row 1: the words of 'a' in column 'item' are repeated" in " ".join(output.stderr.split())


def test_an_unreadable_row_does_not_make_its_text_occur_twice(
    invoke: Invoke, arguments: tuple[Path | str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "table.jsonl"
    rows = [json.dumps({"item": 1, "word": word}) for word in ("the", "dog")]
    file.write_text("\n".join([rows[0], "no JSON", rows[1]]), encoding="utf-8")
    output = invoke(*arguments, file, "--word-column", "word", "--group-by", "item")
    assert [row["status"][:5] for row in rows_of(output.stdout)] == ["error"] * 3
    assert "occurs twice" not in " ".join(output.stderr.split())


def test_every_word_of_a_text_with_an_error_is_counted(
    invoke: Invoke, arguments: tuple[Path | str, ...], tmp_path: Path
) -> None:
    file = table_file(tmp_path / "table.csv", [{"item": 1, "word": word, "in": "xx"} for word in ("the", "dog")])
    output = invoke(*arguments, file, "--word-column", "word", "--group-by", "item", "--lang-column", "in")
    assert "2 rows could not be scored" in output.stderr


PROSE = ["  The small dog is. A cat (the dog). ", "", "on the grass?\tthe\u2028 dog!  A", "xx", "\u00a0", "is"]


@pytest.mark.parametrize("by", ["sentence", "word", "token"])
def test_prose_is_split_into_sentences_whose_spans_are_in_the_row(
    invoke: Invoke, arguments: tuple[Path | str, ...], scored: Callable[..., Any], tmp_path: Path, by: str
) -> None:
    pytest.importorskip("sentencex")
    file = table_file(tmp_path / "table.jsonl", [{"text": text} for text in PROSE])
    split = [["The small dog is.", "A cat (the dog)."], ["on the grass?", "the\u2028 dog!", "A"], ["xx"], ["is"]]
    documents = [split[0], [each for sentences in split[1:3] for each in sentences], split[3]]
    for options, expected in (((), [split[0], [""], *split[1:3], ["\u00a0"], split[3]]), (("--documents",), documents)):
        output = invoke(*arguments, file, "--split-sentences", "--input-format", "jsonl", "--by", by, *options)
        assert output.exit_code == 0, output.stderr
        rows = rows_of(output.stdout)
        results = [result for each in scored(score_documents, expected) for result in each]
        if by == "sentence":
            assert [float(row["logprob"]) for row in rows] == pytest.approx([r.logprob for r in results], abs=2e-6)
        elif by == "word":
            surprisals = [word.surprisal for result in results for word in result.words]
            words = [row for row in rows if row["text"] != "</s>"]
            assert [-float(row["logprob"]) for row in words] == pytest.approx(surprisals, abs=2e-6)
        else:
            assert [row["token"] for row in rows] == [token for result in results for token in result.tokens]
        for row in rows if by != "token" else ():
            text = PROSE[int(row["line"]) - 1]
            if row["text"] != "</s>":
                assert text[int(row["start"]) : int(row["end"])] == row["text"]
        assert [row["sentence"] for row in rows][-1] == "1"
        assert "of split sentences|" in output.stderr
