"""``xlm evaluate``. Oracle: the library's own results, read back from what the command writes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from xlm import XLMTokenizer, XLMWithLMHeadModel, score
from xlm.evaluation.evaluate import ITEM_COLUMNS, Evaluation, evaluate

COLUMNS = ["by", "name", "items", "correct", "accuracy", "low", "high", "ties", "unknown"]
FORMULA = "(2;%match%) < (2;%mismatch%)"


@pytest.fixture
def model(demo_files: Path) -> tuple[Path | str, ...]:
    return demo_files / "demo.pth", "--codes", demo_files / "codes"


@pytest.fixture
def tasks(tmp_path: Path) -> list[Path]:
    pairs = [{"sentence_good": "The dog is\tsmall.", "sentence_bad": 'The "dog" are.', "UID": "agreement"}]
    pairs.append({"sentence_good": "", "sentence_bad": "a 漢 cat", "UID": "agreement"})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    (tmp_path / "b.txt").write_text("True\tthe dog\nFalse\tthe  dog\n", encoding="utf-8")
    conditions = [
        {
            "condition_name": name,
            "regions": [{"region_number": 1, "content": "the dog"}, {"region_number": 2, "content": verb}],
        }
        for name, verb in (("match", "is"), ("mismatch", "are"))
    ]
    suite = {"predictions": [{"type": "formula", "formula": FORMULA}], "items": [{"conditions": conditions}]}
    (tmp_path / "c.json").write_text(json.dumps(suite), encoding="utf-8")
    return [tmp_path / "a.jsonl", tmp_path / "b.txt", tmp_path / "c.json"]


@pytest.fixture
def by_library(demo_files: Path, tasks: list[Path]) -> Evaluation:
    tokenizer = XLMTokenizer.from_pretrained(demo_files / "demo.pth", codes=demo_files / "codes")
    return evaluate(XLMWithLMHeadModel.from_pretrained(demo_files / "demo.pth"), tokenizer, tasks, lang="en")


def test_rows_are_the_accuracies(
    invoke: Invoke, model: tuple[str, ...], tasks: list[Path], by_library: Evaluation
) -> None:
    expected = [
        [each.by, each.name, each.items, each.correct, each.accuracy, *each.interval, each.ties, each.unknown]
        for each in by_library.accuracies
    ]
    assert [row[:3] for row in expected] == [
        ["task", "agreement", 2],
        ["task", "b", 1],
        ["task", "c", 1],
        ["all", "", 4],
    ]
    result = invoke("evaluate", *model, *tasks, "--lang", "en")
    assert result.exit_code == 0
    header, *rows = (line.split("\t") for line in result.stdout.splitlines())
    assert header == COLUMNS
    assert rows == [[f"{cell:.6f}" if isinstance(cell, float) else str(cell) for cell in row] for row in expected]
    assert "|lang:en|protocol:sentence|long:stride " in result.stderr
    lines = invoke("evaluate", *model, *tasks, "--lang", "en", "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [dict(zip(COLUMNS, row, strict=True)) for row in expected]


@pytest.mark.parametrize("suffix", ["tsv", "jsonl", "TSV"])
def test_the_table_of_items(
    invoke: Invoke, model: tuple[str, ...], tasks: list[Path], by_library: Evaluation, tmp_path: Path, suffix: str
) -> None:
    file = tmp_path / f"items.{suffix}"
    file.write_text("old", encoding="utf-8")
    assert invoke("evaluate", *model, *tasks, "--lang", "en", "--items", file).exit_code == 0
    expected = list(by_library.rows())
    assert len(expected) == 2 * 3 + 2 * 3
    if suffix == "jsonl":
        found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        assert found == [{**row, "surprisal": pytest.approx(row["surprisal"], abs=1e-6)} for row in expected]
        return
    with file.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines, dialect="excel-tab")
        rows = list(reader)
    assert reader.fieldnames == list(ITEM_COLUMNS)
    for row, cells in zip(rows, expected, strict=True):
        assert float(row.pop("surprisal")) == pytest.approx(cells["surprisal"], abs=1e-6)
        assert row == {
            name: str(int(cell) if isinstance(cell, bool) else cell)
            for name, cell in cells.items()
            if name != "surprisal"
        }


@pytest.mark.parametrize(
    "options",
    [
        ("--lang", "en"),
        ("a.jsonl",),
        ("missing.jsonl", "--lang", "en"),
        ("-", "--lang", "en"),
        ("a.jsonl", "--lang", "en", "--items", "items.csv"),
        ("a.jsonl", "--lang", "en", "--items", "items"),
        ("a.jsonl", "--lang", "en", "--items", "a.jsonl"),
        ("a.jsonl", "--lang", "en", "--stride", "9999"),
    ],
    ids=" ".join,
)
def test_wrong_usage(
    invoke: Invoke,
    model: tuple[str, ...],
    tasks: list[Path],
    options: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tasks[0].parent)
    before = tasks[0].read_bytes()
    result = invoke("evaluate", *model, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert tasks[0].read_bytes() == before


@pytest.mark.parametrize(
    ("data", "lang", "message"),
    [
        (b'{"sentence_good": "a"}', "en", "a.jsonl, line 1"),
        (b"", "en", "There are no items"),
        (b'{"sentence_good": "a", "sentence_bad": "b"}', "fr", "fr"),
    ],
)
def test_failures(
    invoke: Invoke, model: tuple[str, ...], tasks: list[Path], data: bytes, lang: str, message: str, tmp_path: Path
) -> None:
    tasks[0].write_bytes(data)
    items = tmp_path / "items.tsv"
    result = invoke("evaluate", *model, *tasks, "--lang", lang, "--items", items)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr
    assert not items.exists()


def test_standard_input_and_no_closing(
    invoke: Invoke, model: tuple[str, ...], tasks: list[Path], demo_files: Path, tmp_path: Path
) -> None:
    items = tmp_path / "items.jsonl"
    piped = invoke(
        *("evaluate", *model, "-", "--task-format", "blimp", "--lang", "en", "--no-closing", "--items", items),
        input=tasks[0].read_bytes(),
    )
    tokenizer = XLMTokenizer.from_pretrained(demo_files / "demo.pth", codes=demo_files / "codes")
    network = XLMWithLMHeadModel.from_pretrained(demo_files / "demo.pth")
    expected = evaluate(network, tokenizer, tasks[0], lang="en", closing=False)
    assert piped.exit_code == 0, piped.stderr
    rows = [json.loads(line) for line in items.read_text(encoding="utf-8").splitlines()]
    assert [row["surprisal"] for row in rows] == [pytest.approx(row["surprisal"], abs=1e-6) for row in expected.rows()]
    for row in rows:
        (whole,) = score(network, tokenizer, [row["text"]], lang="en")
        assert row["surprisal"] == pytest.approx(-sum(whole.logprobs[:-1]), abs=1e-5)
    assert "protocol:sentence without </s>|" in piped.stderr
    assert invoke("evaluate", *model, tasks[0], "--lang", "en", "--no-closing").stdout == piped.stdout
