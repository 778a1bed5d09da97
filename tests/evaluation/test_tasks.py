"""Reading tasks. Oracle: the items written out by hand, for files in the formats of BLiMP, CLAMS and SyntaxGym."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest

from xlm.errors import InputError
from xlm.evaluation.tasks import Condition, read_items


def pair(good: str = "A cat runs.", bad: str = "A cat run.", **other: object) -> dict[str, object]:
    return {"sentence_good": good, "sentence_bad": bad, **other}


def region(number: object, content: object) -> dict[str, object]:
    return {"region_number": number, "content": content}


def suite(**changes: Any) -> dict[str, Any]:
    conditions = [
        {"condition_name": "match", "regions": [region(1, "The dog"), region(2, "runs"), region(3, ".")]},
        {"condition_name": "mismatch", "regions": [region(1, "The dog"), region(2, " run "), region(3, "")]},
    ]
    values = {
        "meta": {"name": "verbs", "metric": "sum"},
        "region_meta": {"1": "subject", "2": "verb", "3": "end"},
        "predictions": [{"type": "formula", "formula": "(2;%match%) < (2;%mismatch%)"}],
        "items": [{"item_number": 7, "conditions": conditions}],
    }
    return {**values, **changes}


def test_json_lines_are_pairs(tmp_path: Path) -> None:
    file = tmp_path / "adjunct.jsonl"
    lines = [
        json.dumps(
            pair(UID="first", field="syntax", linguistics_term="islands", pairID="12", lexically_identical=True)
        ),
        "",
        json.dumps(pair("Ein ü", "Zwei\tü"), ensure_ascii=False),
    ]
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    first, second = read_items(file)
    assert (first.task, first.number) == ("first", "12")
    assert first.groups == {"field": "syntax", "linguistics_term": "islands"}
    assert first.conditions == (Condition(name="good", text="A cat runs."), Condition(name="bad", text="A cat run."))
    assert [each.text for each in first.formulas] == ["(*;%good%) < (*;%bad%)"]
    assert (second.task, second.number, second.groups) == ("adjunct", "1", {})
    assert [each.text for each in second.conditions] == ["Ein ü", "Zwei\tü"]


@pytest.mark.parametrize("suffix", ["txt", "tsv", "TXT"])
def test_labelled_lines_are_pairs(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"simple_agrmt.{suffix}"
    file.write_bytes("True\tder Hund ist groß\nFalse\tder Hund sind groß\r\n\nTrue\ta\tb\nFalse\ta".encode())
    items = read_items(file)
    assert [(item.task, item.number) for item in items] == [("simple_agrmt", "0"), ("simple_agrmt", "1")]
    texts = [[(each.name, each.text) for each in item.conditions] for item in items]
    assert texts == [
        [("good", "der Hund ist groß"), ("bad", "der Hund sind groß")],
        [("good", "a\tb"), ("bad", "a")],
    ]


def test_a_suite(tmp_path: Path) -> None:
    file = tmp_path / "suite.json"
    file.write_text(json.dumps(suite(), indent=4), encoding="utf-8")
    (item,) = read_items(file)
    assert (item.task, item.number, item.groups) == ("verbs", "7", {})
    assert [each.text for each in item.formulas] == ["(2;%match%) < (2;%mismatch%)"]
    match, mismatch = item.conditions
    assert (match.name, match.text) == ("match", "The dog runs .")
    assert {name: match.text[start:end] for name, (start, end) in match.regions.items()} == {
        "1": "The dog",
        "2": "runs",
        "3": ".",
    }
    assert (mismatch.name, mismatch.text) == ("mismatch", "The dog run")
    assert [mismatch.text[start:end] for start, end in mismatch.regions.values()] == ["The dog", "run", ""]


def test_older_suites_have_their_formulas_in_meta(tmp_path: Path) -> None:
    formulas = ["[(2;%match%) < (2;%mismatch%)] & [(1;%match%) = (1;%mismatch%)]", "(*;%match%) < (*;%mismatch%)"]
    file = tmp_path / "old.json"
    file.write_text(json.dumps(suite(predictions=[], meta={"string_predictions": formulas})), encoding="utf-8")
    (item,) = read_items(file)
    assert item.task == "old"
    assert [each.text for each in item.formulas] == formulas


@pytest.mark.parametrize(
    ("name", "data", "where", "message"),
    [
        ("a.jsonl", b"", "", "There are no items"),
        ("a.jsonl", b"\n \n", "", "There are no items"),
        ("a.jsonl", json.dumps(pair()).encode() + b"\n{", ", line 2", "Not JSON"),
        ("a.jsonl", b"\n[1, 2]", ", line 2", "Not a JSON object"),
        ("a.jsonl", b"[" * 100_000, ", line 1", "Not JSON"),
        ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}", ", line 1", "Not JSON"),
        ("a.jsonl", b'{"sentence_good": "a", "sentence_good": "b"}', ", line 1", "A key occurs twice"),
        ("a.jsonl", b'{"sentence_good": "a"}', ", line 1", "There is no 'sentence_bad'"),
        ("a.jsonl", json.dumps(pair(bad=None)).encode(), ", line 1", "'sentence_bad' is not text: NoneType"),  # type: ignore[arg-type]
        ("a.jsonl", rb'{"sentence_good": "\ud800", "sentence_bad": "b"}', ", line 1", "half a surrogate pair"),
        ("a.jsonl", json.dumps(pair(UID="\ud800")).encode(), ", line 1", "half a surrogate pair"),
        ("a.jsonl", b'{"sentence_good": "a",\n"sentence_bad": "b"}', ", line 1", "Not JSON"),
        ("a.jsonl", json.dumps(pair()).encode() + b"\n\xff", ", line 2", "byte 0xff"),
        ("a.txt", b"", "", "There are no items"),
        ("a.txt", b"True\ta\nFalse\tb\nTrue\tc\n", ", line 3", "no bad sentence"),
        ("a.txt", b"True\ta\nTrue\tb\n", ", line 2", "expected: False"),
        ("a.txt", b"False\ta\nTrue\tb\n", ", line 1", "expected: True"),
        ("a.txt", b"True\ta\nFalse\tb\nFalse\tc\n", ", line 3", "expected: True"),
        ("a.txt", b"\n\nTrue a\n", ", line 3", "expected: True, a tab and a sentence"),
        ("a.txt", b"True\t\nFalse\tb\n", ", line 1", "expected: True"),
        ("a.tsv", b"sentence\tlabel\n", ", line 1", "expected: True"),
        ("a.csv", b"True,a", "", "tells no format"),
        ("a", b"True\ta", "", "tells no format"),
        ("a.json", b"", "", "Not JSON"),
        ("a.json", b'{"items": [\n}', "", "of line 2"),
        ("a.json", b"[" * 100_000, "", "Not JSON"),
        ("a.json", json.dumps(pair()).encode(), ", predictions", "There are no predictions"),
        ("missing.json", None, "", "No such file"),
    ],
)
def test_files_of_other_forms_are_refused(
    tmp_path: Path, name: str, data: bytes | None, where: str, message: str
) -> None:
    file = tmp_path / name
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(InputError) as error:
        read_items(file)
    assert str(error.value.where) == f"{file}{where}"
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "where", "message"),
    [
        ({"items": []}, "", "There are no items"),
        ({"items": {}}, "", "'items' is not a list"),
        ({"items": [3]}, ", items", "Not a JSON object"),
        ({"items": [{}]}, ", item 1", "'conditions' is not a list"),
        ({"items": [{"conditions": [{}]}]}, ", item 1", "There is no 'condition_name'"),
        ({"items": [{"conditions": []}]}, ", item 1", "(2;%match%), (2;%mismatch%)"),
        ({"meta": {"metric": "mean"}}, ", meta", "Unsupported metric"),
        ({"meta": []}, ", meta", "Not a JSON object"),
        ({"meta": {"string_predictions": [3]}, "predictions": []}, ", predictions", "There are no predictions"),
        ({"predictions": [{"formula": 3}]}, ", predictions", "'formula' is not text"),
        ({"predictions": [{"formula": "(2;%match%)"}]}, ", predictions, 1", "Not a formula"),
        ({"predictions": [{"formula": "(2;%match%) < (9;%match%)"}]}, ", item 1", "(9;%match%)"),
        ({"predictions": [{"formula": "(2;%match%) < (2;%other%)"}]}, ", item 1", "(2;%other%)"),
    ],
)
def test_suites_of_other_forms_are_refused(
    tmp_path: Path, changes: dict[str, object], where: str, message: str
) -> None:
    file = tmp_path / "suite.json"
    file.write_text(json.dumps(suite(**changes)), encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_items(file)
    assert str(error.value.where) == f"{file}{where}"
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"condition_name": "match", "regions": 3}, "'regions' is not a list"),
        ({"condition_name": "match", "regions": [region("1", "a")]}, "Not the number of a region"),
        ({"condition_name": "match", "regions": [region(True, "a")]}, "Not the number of a region"),
        ({"condition_name": "match", "regions": [region(1, 3)]}, "'content' is not text"),
        ({"condition_name": "match", "regions": [{"region_number": 1}]}, "There is no 'content'"),
        ({"condition_name": "match", "regions": [region(1, "a"), region(1, "b")]}, "A region occurs twice"),
    ],
)
def test_conditions_of_other_forms_are_refused(tmp_path: Path, condition: dict[str, object], message: str) -> None:
    file = tmp_path / "suite.json"
    file.write_text(json.dumps(suite(items=[{"conditions": [condition]}])), encoding="utf-8")
    with pytest.raises(InputError, match=message) as error:
        read_items(file)
    assert str(error.value.where) == f"{file}, item 1, condition 'match'"


def test_a_condition_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "suite.json"
    twice = suite()
    twice["items"][0]["conditions"] *= 2
    file.write_text(json.dumps(twice), encoding="utf-8")
    with pytest.raises(InputError, match="A condition occurs twice"):
        read_items(file)


def test_a_condition_may_have_very_many_regions(tmp_path: Path) -> None:
    """Comparing each number with all others would take minutes."""
    file = tmp_path / "suite.json"
    conditions = [
        {"condition_name": name, "regions": [region(number, "") for number in range(60_000)]}
        for name in ("match", "mismatch")
    ]
    file.write_text(json.dumps(suite(items=[{"conditions": conditions}])), encoding="utf-8")
    start = time.process_time()
    (item,) = read_items(file)
    assert len(item.conditions[0].regions) == 60_000
    assert time.process_time() - start < 10


def test_files_with_all_fields_of_the_data_sets(tmp_path: Path) -> None:
    """Files made for this test, with every key that the files of BLiMP and SyntaxGym have; CLAMS has no others."""
    blimp = {
        "sentence_good": "Who had they seen?",
        "sentence_bad": "Who had they seen who?",
        "one_prefix_prefix": "Who had they seen",
        "one_prefix_word_good": "?",
        "one_prefix_word_bad": "who",
        "two_prefix_prefix_good": "Who had",
        "two_prefix_prefix_bad": "Who have",
        "two_prefix_word": "they",
        "field": "syntax",
        "linguistics_term": "island_effects",
        "UID": "wh_island",
        "simple_LM_method": True,
        "one_prefix_method": True,
        "two_prefix_method": False,
        "lexically_identical": False,
        "pairID": "0",
    }
    regions = [{"region_number": i, "content": c, "metric_value": {"sum": 1.5}} for i, c in ((1, "No one"), (2, "ran"))]
    syntaxgym = {
        "meta": {"name": "npi", "metric": "sum", "author": "", "reference": "", "comments": ""},
        "predictions": [{"type": "formula", "formula": "(2;%a%) < (2;%b%)", "comment": ""}],
        "region_meta": {"1": "subject", "2": "verb"},
        "items": [{"item_number": 1, "conditions": [{"condition_name": name, "regions": regions} for name in "ab"]}],
    }
    files = {
        "wh_island.jsonl": json.dumps(blimp) + "\n",
        "simple_agrmt.txt": "True\tder Berater lacht\nFalse\tder Berater lachen\n",
        "npi.json": json.dumps(syntaxgym, indent=4),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        (item,) = read_items(tmp_path / name)
        assert item.task == name.split(".")[0]
        (zipped,) = read_items(tmp_path / f"{name}.gz")
        assert (zipped.task, zipped.conditions, zipped.groups) == (item.task, item.conditions, item.groups)
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(files["simple_agrmt.txt"].encode())[:-9])
    (tmp_path / "plain.txt.gz").write_text(files["simple_agrmt.txt"], encoding="utf-8")
    for name in ("cut.txt.gz", "plain.txt.gz"):
        with pytest.raises(InputError, match="cannot be read"):
            read_items(tmp_path / name)
    assert read_items(tmp_path / "simple_agrmt.txt", format="clams")
