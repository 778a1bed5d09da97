"""Rows of text out of files.

Oracle: the texts that were written to the files, with Python's own csv, json and gzip and with pyarrow; and, for what
is wrong with a row, the one row that says so among others that come out unchanged.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import sys
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xlm.corpus import formats
from xlm.corpus.files import LocalFile
from xlm.corpus.rows import Corpus, Row
from xlm.errors import DependencyError, InputError, XLMWarning

TEXTS = ["the dog", "", 'say "no", or\tnot', "ü 漢 \U0001f600 \u2028 \x00 \x85 \x0b", " , ", "\\t"]


def read(path: Path, **options: Any) -> list[str | None]:
    rows = list(Corpus([path], **options))
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    assert all(row.file == str(path) for row in rows)
    assert all((row.text is None) != (row.problem is None) for row in rows)
    return [row.text for row in rows]


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def as_csv(texts: list[str]) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["id", "text"])
    writer.writerows(enumerate(texts))
    return file.getvalue().encode()


def as_jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)).encode()


@pytest.mark.parametrize("zipped", ["", ".gz"])
def test_every_format_gives_the_texts(tmp_path: Path, zipped: str) -> None:
    text = "\n".join(TEXTS).encode()
    tsv = "\n".join(["id\ttext", *(f"{i}\t{text}" for i, text in enumerate(TEXTS) if "\t" not in text)]).encode()
    with_lines = [*TEXTS, "two\nlines", "and\r\nthese"]
    assert read(written(tmp_path / f"a.txt{zipped}", text)) == TEXTS
    assert read(written(tmp_path / f"b{zipped}", text + b"\n")) == TEXTS
    assert read(written(tmp_path / f"c.jsonl{zipped}", as_jsonl(with_lines))) == with_lines
    assert read(written(tmp_path / f"e.tsv{zipped}", tsv)) == [text for text in TEXTS if "\t" not in text]
    without_nul = [text.replace("\x00", "") for text in with_lines]  # Python 3.10 cannot write it
    assert read(written(tmp_path / f"d.csv{zipped}", as_csv(without_nul))) == without_nul


def test_a_format_can_be_named_and_a_column_too(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", b'{"source": "the dog", "text": 3}\n')
    assert read(path, format="jsonl", column="source") == ["the dog"]


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    values = [*TEXTS * 500, None]
    parquet.write_table(pyarrow.table({"x": list(range(len(values))), "text": values}), path, row_group_size=700)
    rows = list(Corpus([path]))
    assert [row.text for row in rows] == values
    assert rows[-1].problem == "'text' is not text: NoneType"
    with pytest.raises(InputError, match=r"(?si)no such column.*'x', 'text'.*'y'"):
        list(Corpus([path], column="y"))
    assert len(list(Corpus([path], column="x"))) == len(values)
    cut = written(tmp_path / "cut.parquet", path.read_bytes()[:-20])
    corpus = Corpus([cut])
    (row,) = corpus
    assert row.problem is not None
    assert row.problem.startswith("the file is damaged from here on")
    assert corpus.damaged == [str(cut)]


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DependencyError, match=r"xlm\[parquet\]"):
        Corpus([tmp_path / "a.parquet"])


@pytest.mark.parametrize(
    ("name", "line", "problem"),
    [
        ("a.txt", b"a \xff b", "not UTF-8: byte 0xff at byte 3 of the line"),
        ("a.txt", b"\xed\xa0\x80", "not UTF-8: byte 0xed at byte 1 of the line"),
        ("a.jsonl", b"\xff", "not UTF-8: byte 0xff at byte 1 of the line"),
        ("a.jsonl", b"", "the line is empty, not a JSON object"),
        ("a.jsonl", b'{"text": "a"', "not JSON: "),
        ("a.jsonl", b"[" * 100_000, "not JSON: "),
        ("a.jsonl", b"1" * 10_000, "not JSON"),
        ("a.jsonl", b'["text"]', "not a JSON object: list"),
        ("a.jsonl", b'{"text": "a", "text": "b"}', "the key 'text' occurs twice"),
        ("a.jsonl", b'"text"', "not a JSON object: str"),
        ("a.jsonl", b'{"txt": "a"}', "there is no 'text'; the row has 'txt'"),
        ("a.jsonl", b"{}", "there is no 'text'; the row has none"),
        ("a.jsonl", b'{"text": null}', "'text' is not text: NoneType"),
        (
            "a.jsonl",
            b'{"text": "a \\ud800 b"}',
            "'text' is not Unicode text: half a surrogate pair, '\\ud800', at char",
        ),
        ("a.csv", b'1,"a\xff"', "not UTF-8: byte 0xff at byte 2 of the column 'text'"),
        ("a.csv", b"1", "the row ends before the column 'text': 1 of 2 columns"),
        ("a.csv", b"", "the line is empty"),
        ("a.csv", b"1,The cat, said he, was fat.", "4 cells for 2 columns"),
        ("a.csv", b'1,"a"b', "not CSV: "),
        ("a.csv", b"1,a\rb", "not CSV: a carriage return stands inside the row"),
        ("a.tsv", b"1", "the row ends before the column 'text': 1 of 2 columns"),
        ("a.tsv", b"", "the line is empty"),
        ("a.tsv", b"1\tthe dog\tbarks", "3 cells for 2 columns"),
        ("a.tsv", b"1\t\xff", "not UTF-8: byte 0xff at byte 1 of the column 'text'"),
    ],
)
def test_what_is_wrong_with_a_row_costs_that_row(tmp_path: Path, name: str, line: bytes, problem: str) -> None:
    good = {
        ".txt": ["", "the dog"],
        ".jsonl": ["", '{"text": "the dog"}'],
        ".csv": ["id,text\n", "2,the dog"],
        ".tsv": ["id\ttext\n", "2\tthe dog"],
    }
    header, row = good[Path(name).suffix]
    data = f"{header}{row}\n".encode() + line + f"\n{row}\n".encode()
    before, wrong, after = Corpus([written(tmp_path / name, data)])
    assert (before.text, after.text) == ("the dog", "the dog")
    assert (wrong.number, wrong.text) == (2, None)
    assert wrong.problem is not None
    assert wrong.problem.startswith(problem)


def test_a_quote_that_is_never_closed_costs_its_line(tmp_path: Path) -> None:
    found = list(Corpus([written(tmp_path / "a.csv", b'text\nthe dog\n"the\ncat\nthe dog\n')]))
    assert [row.text for row in found] == ["the dog", None, "cat", "the dog"]
    assert "not CSV" in str(found[1].problem)


def test_a_stray_quote_costs_its_line_and_not_those_up_to_the_next(tmp_path: Path) -> None:
    lines = [f"{i},the dog {i}" for i in range(2000)]
    lines[3], lines[1500], lines[1800] = '3,"the', '1500,"the', '1800,"the'
    rows = list(Corpus([written(tmp_path / "a.csv", "\n".join(["id,text", *lines]).encode())]))
    assert [row.number for row in rows if row.problem] == [4, 1501, 1801]
    assert [row.text for row in rows if row.text] == [line.split(",")[1] for line in lines if '"' not in line]


def test_how_far_the_end_of_a_quote_is_looked_for(tmp_path: Path) -> None:
    megabyte = 1 << 20
    for size in (megabyte - 3, megabyte + 3):
        text = "a\n" + "x" * (size - 2) + "\n"  # its last line has the closing quote
        rows = list(Corpus([written(tmp_path / "a.csv", f'text\n"{text}"\nend'.encode())]))
        assert (rows[0].text == text) == (size < megabyte)
        assert rows[-1].text == "end"
        assert len(rows) == (2 if size < megabyte else 4)


def test_many_stray_quotes_do_not_take_forever(tmp_path: Path) -> None:
    # Each opens a quote that the next closes and opens again, so that each is looked behind for a megabyte.
    lines = 'x","y\n' + "the dog\n" * 1000
    rows = list(Corpus([written(tmp_path / "a.csv", f"text\n{lines * 30}".encode())]))
    assert len(rows) == 30 * 1001
    assert sum(row.text == "the dog" for row in rows) == 30 * 1000


@pytest.mark.parametrize("data", [b'"text\nthe dog\nthe cat\n', b'"text"x\nthe dog\nthe cat\n', b'"text,id'])
def test_a_header_that_is_not_csv_is_not_replaced_by_a_row(tmp_path: Path, data: bytes) -> None:
    path = written(tmp_path / "a.csv", data)
    with pytest.raises(InputError, match=rf"(?si)the header cannot be read.*where: {path}, line 1\n.*not CSV: "):
        list(Corpus([path]))


@pytest.mark.parametrize("form", ["csv", "tsv"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_a_row_too_long_to_hold_costs_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, quote: str
) -> None:
    monkeypatch.setattr(formats, "_LONGEST_ROW", 100)
    mark = "," if form == "csv" else "\t"
    # Cut off at 101 bytes, the cell would be short enough.
    lines = [f"id{mark}text", f"1{mark}a", f"2{mark}{quote}{'x' * 300}{quote}", f"3{mark}b", f"4{mark}c"]
    rows = list(Corpus([written(tmp_path / f"a.{form}", "\n".join(lines).encode())]))
    assert [row.text for row in rows] == ["a", None, "b", "c"]
    assert rows[1].problem == "the row is longer than 100 bytes"


@pytest.mark.parametrize("form", ["csv", "tsv"])
def test_a_header_too_long_to_hold_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(formats, "_LONGEST_ROW", 100)
    path = written(tmp_path / f"a.{form}", b"x" * 300 + b"\ntext\na\n")
    with pytest.raises(InputError, match=r"(?s)header cannot be read.*the row is longer than 100 bytes"):
        list(Corpus([path]))


@pytest.mark.parametrize(("form", "mark"), [("csv", ";"), ("csv", "\t"), ("tsv", ","), ("tsv", ";")])
def test_another_mark_between_columns_is_named(tmp_path: Path, form: str, mark: str) -> None:
    # Excel writes CSV with semicolons where the decimal mark is a comma.
    path = written(tmp_path / f"a.{form}", f"\ufeffid{mark}text\r\n1{mark}a\r\n".encode())
    with pytest.raises(InputError, match="between its columns") as caught:
        list(Corpus([path]))
    assert str(caught.value).endswith(f"this file has {mark!r}")


def test_a_row_too_long_to_hold_ends_a_quote_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_LONGEST_ROW", 100)
    data = b'text\n"a\nb\n' + b"x" * 200 + b'\nc\n"d"\n'
    assert read(written(tmp_path / "a.csv", data)) == [None, "b", None, "c", "d"]


@pytest.mark.parametrize("form", ["csv", "tsv"])
@pytest.mark.parametrize(
    ("data", "what", "found"),
    [
        (b"id\n1\n2\n", "no such column", "'id'"),
        (b"id\n", "no such column", "'id'"),
        (b"id;text\n1;a\n", "no such column", "'id;text'"),  # another mark between columns
        (b"\n\ntext\na\n", "no such column", ""),
        (b"\xef\xbb\xbf", "no such column", ""),
        (b"\xff\xfet\x00e\x00x\x00t\x00\n\x00", "not UTF-8 text", "the byte order mark of UTF-16"),
    ],
)
def test_a_table_without_the_column_is_refused(tmp_path: Path, form: str, data: bytes, what: str, found: str) -> None:
    path = written(tmp_path / f"a.{form}", data)
    corpus = Corpus([written(tmp_path / "before.txt", b"one"), path])
    for refused in (corpus.check, lambda: list(corpus)):
        with pytest.raises(InputError, match=rf"(?si){what}.*where: {path}\n.*found: .*{found}"):
            refused()


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    for path in (written(tmp_path / "a.csv", b"text,text\na,b\n"), written(tmp_path / "a.tsv", b"text\ttext\na\tb\n")):
        with pytest.raises(InputError, match=r"(?i)several columns of that name"):
            list(Corpus([path]))


def test_text_in_utf_16_is_refused(tmp_path: Path) -> None:
    for encoding in ("utf-16", "utf-16-be", "utf-32"):
        mark = "\ufeff" if encoding == "utf-16-be" else ""
        path = written(tmp_path / "a.txt", f"{mark}the dog\nthe cat\n".encode(encoding))
        if encoding != "utf-16-be":
            assert path.read_bytes().startswith(b"\xff\xfe")
        with pytest.raises(InputError, match="iconv -f UTF-16"):
            list(Corpus([path]))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl"])
def test_utf_16_without_a_mark_is_refused(tmp_path: Path, name: str, encoding: str) -> None:
    data = '{"text": "a"}\n' if name == "a.jsonl" else "text\nthe dog\n"
    with pytest.raises(InputError, match="a NUL beside each letter"):
        list(Corpus([written(tmp_path / name, data.encode(encoding))]))


def test_empty_cells_at_the_end_of_a_row_are_no_text(tmp_path: Path) -> None:
    assert read(written(tmp_path / "a.csv", b"id,text\n1,a,\n2,b,,\n")) == ["a", "b"]


def test_names_of_rows_without_a_header_are_not_taken_for_the_text(tmp_path: Path) -> None:
    # R's write.table names the rows in a column that the header lacks: each cell would be that of its neighbour.
    rows = list(Corpus([written(tmp_path / "a.tsv", b"text\tid\n1\tthe dog\t7\n")]))
    assert [(row.text, row.problem) for row in rows] == [
        (None, "3 cells for 2 columns: a cell that holds a delimiter needs quotes")
    ]


def test_a_table_without_rows_has_one_that_says_so(tmp_path: Path) -> None:
    for name, data in (("a.csv", b"id,text\n"), ("b.csv.gz", b"text"), ("a.tsv", b"id\ttext\r\n"), ("b.tsv", b"text")):
        assert [row.problem for row in Corpus([written(tmp_path / name, data)])] == ["the table has no rows"]
    pyarrow = pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table({"text": pyarrow.array([], "string")}), path)
    assert [row.problem for row in Corpus([path])] == ["the table has no rows"]


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("zipped", ["", ".gz"])
def test_tables_are_read_whatever_ends_their_lines(tmp_path: Path, end: str, whole: bool, zipped: str) -> None:
    last = end if whole else ""
    lines = ["text{0}id", "A dog.{0}1", "A cat.{0}2"]
    for form, mark in (("csv", ","), ("tsv", "\t")):
        data = (end.join(lines) + last).format(mark).encode()
        assert read(written(tmp_path / f"a.{form}{zipped}", data)) == ["A dog.", "A cat."]
    # Line ends inside quoted cells are text.
    cells = ["a\rb", "a\nb", "a\r\nb", "\r", "\n\r"]
    quoted = end.join(["id,text", *(f'{i},"{cell}"' for i, cell in enumerate(cells))]) + last
    assert read(written(tmp_path / f"b.csv{zipped}", quoted.encode())) == cells


def test_a_line_end_where_a_block_ends(tmp_path: Path) -> None:
    for end in ("\r", "\n", "\r\n"):
        for length in range(8180, 8200):  # Python reads text in blocks of 8,192
            rows = ["x" * length, "y", "z"]
            assert read(written(tmp_path / "a.csv", end.join(["text", *rows]).encode())) == rows


def test_a_carriage_return_inside_a_row_is_not_silent(tmp_path: Path) -> None:
    tsv = written(tmp_path / "a.tsv", b"text\tid\nA dog.\t1\rA cat.\t2\nA cow.\t3\n")
    csv_file = written(tmp_path / "a.csv", b"text,id\nA dog.,1\rA cat.,2\nA cow.,3\n")
    for path in (tsv, csv_file):
        wrong, right = Corpus([path])
        assert wrong.problem
        assert right.text == "A cow."


@pytest.mark.parametrize(("name", "mark"), [("cr.csv", ","), ("cr.tsv", "\t")])
def test_tables_of_public_reports(reference: Path, name: str, mark: str) -> None:
    assert read(reference / "cases" / name) == ["A dog.", "A cat."]


def test_a_header_of_public_reports(reference: Path) -> None:
    with pytest.raises(InputError, match=r"(?si)open_quote\.csv, line 1\n.*a quote is not closed"):
        list(Corpus([reference / "cases" / "open_quote.csv"]))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.tsv", "a.txt.gz"])
def test_an_empty_file_has_no_rows(tmp_path: Path, name: str) -> None:
    assert read(written(tmp_path / name, b"")) == []


def test_a_byte_order_mark_and_carriage_returns(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    assert read(written(tmp_path / "a.txt", mark + b"the\r\ndog\r\n")) == ["the", "dog"]
    assert read(written(tmp_path / "a.txt", b"the\rcat\r\r\n\r\ndog\r")) == ["the\rcat\r", "", "dog\r"]
    assert read(written(tmp_path / "a.csv", mark + b"text,x\r\nthe,1\r\ndog,2\r\n")) == ["the", "dog"]
    assert read(written(tmp_path / "a.tsv", mark + b"x\ttext\r\n1\tthe\r\n")) == ["the"]
    assert read(written(tmp_path / "a.jsonl", mark + as_jsonl(["the"]).replace(b"\n", b"\r\n"))) == ["the"]
    assert read(written(tmp_path / "b.txt", b"the\n" + mark + b"dog")) == ["the", "\ufeffdog"]


def test_a_long_line_is_a_row_and_one_too_long_to_hold_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    megabyte = "the " * (1 << 18)
    assert read(written(tmp_path / "a.txt", f"{megabyte}\nend".encode())) == [megabyte, "end"]
    assert read(written(tmp_path / "a.csv", f"text\n{megabyte}\nend".encode())) == [megabyte, "end"]
    monkeypatch.setattr(formats, "_LONGEST_ROW", 10)
    lines = ["x" * length for length in (9, 10, 11, 12, 13, 25, 3)]
    for end in ("", "\n"):
        found = list(Corpus([written(tmp_path / "b.txt", ("\n".join(lines) + end).encode())]))
        assert [row.text for row in found] == [line if len(line) <= 10 else None for line in lines]
        assert {row.problem for row in found} == {None, "the line is longer than 10 bytes"}


@pytest.mark.parametrize("cut", [5, 12, -12, -1])
def test_a_compressed_file_that_was_cut_gives_what_is_left(tmp_path: Path, cut: int) -> None:
    lines = [f"the dog {i * i}" for i in range(2000)]
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode())[:cut])
    after = written(tmp_path / "b.txt", b"the cat")
    corpus = Corpus([path, after])
    *found, wrong, last = corpus
    assert [row.text for row in found] == lines[: len(found)]
    assert (wrong.file, wrong.number, wrong.text) == (str(path), len(found) + 1, None)
    assert str(wrong.problem).startswith("the file is damaged from here on: ")
    assert last == Row(file=str(after), number=1, text="the cat")
    assert corpus.damaged == [str(path)]


def test_what_is_not_compressed_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(b"the dog\n")
    corpus = Corpus([path])
    assert [row.text for row in corpus] == [None]
    assert corpus.damaged == [str(path)]


def test_plain_text_has_no_columns(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no columns"):
        Corpus([tmp_path / "a.txt"], column="text")


def test_what_stands_behind_gzip_data_is_said(tmp_path: Path) -> None:
    whole = gzip.compress(b"one\ntwo\n")
    for form, data in (("a.txt.gz", whole), ("a.csv.gz", gzip.compress(b"text\none\ntwo\n"))):
        path = tmp_path / form
        path.write_bytes(data + b"garbage")
        corpus = Corpus([path, written(tmp_path / "b.txt.gz", b"three")])
        said = f"{path}: 7 bytes at byte {len(data)}, after the gzip data, are ignored"
        for _ in range(2):
            with pytest.warns(XLMWarning, match=re.escape(said)):
                assert [row.text for row in corpus] == ["one", "two", "three"]
            assert corpus.warnings == [said]
        assert corpus.damaged == []


def test_text_whose_only_line_ends_are_carriage_returns_is_one_row_and_said(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", b"A dog.\rA cat.\r")
    with pytest.warns(XLMWarning, match="one row"):
        assert read(path) == ["A dog.\rA cat.\r"]
    path = written(tmp_path / "a.jsonl", b'{"text": "A dog."}\r{"text": "A cat."}\r')
    with pytest.warns(XLMWarning, match="one row"):
        assert read(path) == [None]
    read(written(tmp_path / "b.txt", b"A dog.\r"))  # without a warning, which would be an error here
    read(written(tmp_path / "c.txt", b"A dog.\rA cat.\nA cow.\n"))


@pytest.mark.filterwarnings("ignore::xlm.errors.XLMWarning")
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=60) | st.text(st.sampled_from('a,"\n\r\t{}:[]\x00')).map(str.encode))
@pytest.mark.parametrize("form", ["text", "jsonl", "csv", "tsv"])
def test_no_bytes_stop_it(tmp_path: Path, form: str, data: bytes) -> None:
    corpus = Corpus([written(tmp_path / "any", data)], format=form)
    try:
        rows = list(corpus)
    except InputError:
        assert form in ("csv", "tsv") or data[:2] in (b"\xff\xfe", b"\xfe\xff") or data[:4].count(b"\0") == 2
        return
    assert bool(rows) == bool(data)
    assert all((row.text is None) != (row.problem is None) for row in rows)
    if form in ("text", "jsonl"):
        assert len(rows) == len(data.split(b"\n")) - (data.endswith(b"\n") or not data)
    for row in rows:
        (row.text or row.problem or "").encode("utf-8")


def test_how_far_it_is_read(tmp_path: Path) -> None:
    first, second = (written(tmp_path / name, b"the dog\n" * 40_000) for name in "ab")
    corpus = Corpus([first, second])
    assert corpus.sizes == [(str(first), 320_000), (str(second), 320_000)]
    places = [corpus.bytes_read() for _ in corpus]
    assert places == sorted(places)
    assert 0 < places[0] < 320_000 <= places[40_000] < places[-1] + 1
    assert corpus.bytes_read() == 640_000
    # Read again, it is counted again, and not twice.
    assert len(list(corpus)) == 80_000
    assert corpus.bytes_read() == 640_000


def test_how_far_parquet_is_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": [f"the dog {i}" for i in range(4000)]}), path)
    corpus = Corpus([path])
    places = [corpus.bytes_read() for _ in corpus]
    size = path.stat().st_size
    assert places[1999] == pytest.approx(size / 2, abs=1)
    assert places == sorted(places)
    assert corpus.bytes_read() == size


def test_a_damaged_file_that_was_just_left_has_a_place(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"the dog\n" * 1000)[:-12])
    corpus = Corpus([path])
    places = [corpus.bytes_read() for row in corpus if row.problem]
    assert places == [path.stat().st_size]
    assert [row.problem for row in corpus if row.problem]
    assert corpus.damaged == [str(path)]  # once, though it was read twice


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.parquet"])
def test_a_file_that_is_gone_is_said(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    after = written(tmp_path / "b.txt", b"the cat")
    corpus = Corpus([tmp_path / name, after])
    assert corpus.sizes == [(str(tmp_path / name), 0), (str(after), 7)]
    first, second = corpus
    assert (first.text, first.problem, second.text) == (None, "the file is gone", "the cat")
    assert corpus.damaged == [str(tmp_path / name)]


def test_a_name_that_is_not_utf8_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"a\xff.txt")
    try:
        path.write_bytes(b"the dog")
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    corpus = Corpus([path])
    (row,) = corpus
    assert row.file == f"{tmp_path}/a\\xff.txt" == corpus.sizes[0][0]


def test_suffixes_in_capitals(tmp_path: Path) -> None:
    assert read(written(tmp_path / "NEWS.CSV", b'text\n"the, dog"\n')) == ["the, dog"]
    (tmp_path / "NEWS.TSV.GZ").write_bytes(gzip.compress(b"text\nthe dog\n"))
    assert read(tmp_path / "NEWS.TSV.GZ") == ["the dog"]


@pytest.mark.parametrize("name", ["in.txt", "in.txt.gz"])
def test_a_corpus_closes_the_file_whose_rows_are_not_all_taken(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    data = b"one\ntwo\n"
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    corpus = Corpus([path])
    rows = iter(corpus)
    assert next(rows).text == "one"
    corpus.close()
    with pytest.raises(ValueError, match="closed"):
        next(rows)
    assert [row.text for row in corpus] == ["one", "two"]
    corpus.close()


def test_a_corpus_closes_parquet_whose_rows_are_not_all_taken(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"text": ["one"] * 3000}), tmp_path / "in.parquet", row_group_size=1000)
    opened: list[IO[bytes]] = []

    class Noted(LocalFile):
        """A file that is noted when it is opened."""

        def open_parquet(self) -> IO[bytes]:
            opened.append(self.path.open("rb"))
            return opened[-1]

    corpus = Corpus([Noted(tmp_path / "in.parquet")])
    rows = iter(corpus)
    assert next(rows).text == "one"
    assert [file.closed for file in opened] == [False]
    corpus.close()
    assert [file.closed for file in opened] == [True]
    assert len(list(corpus)) == 3000
    assert [file.closed for file in opened] == [True, True]
