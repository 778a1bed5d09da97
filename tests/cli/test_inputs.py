"""One way to open an input for every command.

Oracle: what the command writes for the same texts as plain lines in a file; and, for what cannot be read, one message
that names the input, status 1, and no work done before it.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tests.cli.conftest import Invoke
from xlm import convert

TEXTS = ["The small dog is sleeping.", "A woman reads, and", "the dog", "A dog number 4."]


@pytest.fixture(scope="module")
def model(demo_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model") / "model"
    convert(demo_files / "demo.pth", directory, codes=demo_files / "codes")
    return directory


def as_csv(texts: list[str], *, mark: str = ",", end: str = "\r\n", name: str = "text") -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=mark, lineterminator=end)
    writer.writerows([("id", name), *enumerate(texts)])
    return file.getvalue().encode()


def as_parquet(texts: list[str], *, name: str = "text") -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    file = io.BytesIO()
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table({"id": range(len(texts)), name: texts}), file)
    return file.getvalue()


FORMS: dict[str, Callable[[list[str]], bytes]] = {
    "a.txt": lambda texts: "".join(f"{text}\n" for text in texts).encode(),
    "crlf.txt": lambda texts: "".join(f"{text}\r\n" for text in texts).encode(),
    "a.txt.gz": lambda texts: b"".join(gzip.compress(f"{text}\n".encode()) for text in texts) + b"\0" * 512,
    "a.jsonl": lambda texts: "".join(json.dumps({"text": text}) + "\n" for text in texts).encode(),
    "a.csv": as_csv,
    "cr.csv": lambda texts: as_csv(texts, end="\r"),
    "a.csv.gz": lambda texts: gzip.compress(as_csv(texts)),
    "a.tsv": lambda texts: as_csv(texts, mark="\t", end="\n"),
    "cr.tsv": lambda texts: as_csv(texts, mark="\t", end="\r"),
    "a.parquet": as_parquet,
}


def run_score(invoke: Invoke, model: Path, file: Path, out: Path, *options: str) -> tuple[Result, object]:
    result = invoke("score", model, "--lang", "en", file, "--by", "word", *options)
    return result, result.stdout


def run_perplexity(invoke: Invoke, model: Path, file: Path, out: Path, *options: str) -> tuple[Result, object]:
    result = invoke("perplexity", model, "--lang", "en", file, *options)
    return result, result.stdout


def run_tokenize(invoke: Invoke, model: Path, file: Path, out: Path, *options: str) -> tuple[Result, object]:
    result = invoke("tokenize", model, "--lang", "en", file, *options)
    return result, result.stdout


def run_generate(invoke: Invoke, model: Path, file: Path, out: Path, *options: str) -> tuple[Result, object]:
    result = invoke("generate", model, "--lang", "en", file, "--greedy", "--max-new-tokens", "2", *options)
    return result, result.stdout


def run_prepare(invoke: Invoke, model: Path, file: Path, out: Path, *options: str) -> tuple[Result, object]:
    result = invoke("prepare", out, "--model", model, "--train", f"en={file}", *options)
    return result, [path.read_bytes() for path in sorted(out.glob("*.bin"))]


def run_learn_bpe(invoke: Invoke, model: Path, file: Path, out: Path, *options: str) -> tuple[Result, object]:
    out.mkdir()
    result = invoke("learn-bpe", "--merges", "9", "--codes", out / "codes", "--vocab", out / "vocab", file, *options)
    return result, [path.read_bytes() for path in sorted(out.iterdir())]


COMMANDS = {
    "score": run_score,
    "perplexity": run_perplexity,
    "tokenize": run_tokenize,
    "generate": run_generate,
    "prepare": run_prepare,
    "learn-bpe": run_learn_bpe,
}
STREAMING = ("score", "tokenize", "generate")
"""Commands that write what they have read before they show an error."""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_form_gives_what_plain_lines_give(name: str, invoke: Invoke, model: Path, tmp_path: Path) -> None:
    def run(form: str) -> object:
        file = tmp_path / form
        file.write_bytes(FORMS[form](TEXTS))
        result, found = COMMANDS[name](invoke, model, file, tmp_path / f"out-{form}")
        assert result.exit_code == 0, (form, result.stderr)
        assert "warning" not in result.stderr
        return found

    first, *others = FORMS
    expected = run(first)
    assert expected
    for form in others:
        assert run(form) == expected, form


@pytest.mark.parametrize("name", COMMANDS)
def test_what_stands_behind_gzip_data_costs_no_row(name: str, invoke: Invoke, model: Path, tmp_path: Path) -> None:
    plain, file = tmp_path / "a.txt", tmp_path / "a.txt.gz"
    plain.write_bytes(FORMS["a.txt"](TEXTS))
    data = gzip.compress(plain.read_bytes())
    file.write_bytes(data + b"\r\n")
    result, found = COMMANDS[name](invoke, model, file, tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    said = f"warning: {file}: 2 bytes at byte {len(data)}, after the gzip data, are ignored\n"
    assert result.stderr.count(said) == 1
    assert found == COMMANDS[name](invoke, model, plain, tmp_path / "plain")[1]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("damage", ["cut", "checksum", "second member"])
def test_damaged_gzip_data_gives_what_can_be_read_and_status_1(
    name: str, damage: str, invoke: Invoke, model: Path, tmp_path: Path
) -> None:
    plain, file = tmp_path / "a.txt", tmp_path / "a.txt.gz"
    plain.write_bytes(FORMS["a.txt"](TEXTS))
    data = gzip.compress(plain.read_bytes())
    if damage == "cut":
        data = data[:-3]
    elif damage == "checksum":
        data = data[:-8] + b"\0\0\0\0" + data[-4:]
    else:
        data += data[:12]
    file.write_bytes(data)
    result, found = COMMANDS[name](invoke, model, file, tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.count("Error: ") == 1
    assert str(file) in result.stderr.partition("Error: ")[2]
    assert "target" not in result.stderr.lower()
    if name in STREAMING:
        assert str(found).startswith(str(COMMANDS[name](invoke, model, plain, tmp_path / "plain")[1]).rstrip("\n"))
    else:
        assert not found or name == "perplexity"
        assert result.stdout == ""


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("form", ["csv", "tsv", "parquet"])
@pytest.mark.parametrize("rows", [0, 2])
def test_a_table_without_the_column_stops_before_any_work(
    name: str, form: str, rows: int, invoke: Invoke, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("it worked in vain")

    for long in (
        "tokenizer.tokenizer.XLMTokenizer.from_pretrained",
        "inference.loading.open_model",
        "data.bpe_learning.in_order",
    ):
        monkeypatch.setattr(f"xlm.{long}", work)
    file = tmp_path / f"a.{form}"
    texts = TEXTS[:rows]
    file.write_bytes(
        as_parquet(texts, name="sentence")
        if form == "parquet"
        else as_csv(texts, mark="," if form == "csv" else "\t", name="sentence")
    )
    result, found = COMMANDS[name](invoke, model, file, tmp_path / "out")
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    assert not found
    assert f"Error: No such column\n  where: {file}\n  found: 'id', 'sentence'\n  expected: 'text'\n" in result.stderr
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    if rows:
        result, found = COMMANDS[name](invoke, model, file, tmp_path / "out", "--column", "sentence")
        assert result.exit_code == 0, result.stderr
        assert found


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("form", "data", "said"),
    [
        ("a.csv", b'"text,id', "The header cannot be read\n  where: {file}, line 1\n  found: not CSV: a quote is not"),
        ("a.tsv", b"\n\n", "No such column\n  where: {file}\n"),
        ("a.csv", b"\xef\xbb\xbf", "No such column\n  where: {file}\n"),
        ("a.txt", "the dog\n".encode("utf-16"), "Not UTF-8 text\n  where: {file}\n"),
        ("a.csv", "text\nthe dog\n".encode("utf-16"), "Not UTF-8 text\n  where: {file}\n"),
    ],
)
def test_no_rows_out_of_some_bytes_is_an_error(
    name: str, form: str, data: bytes, said: str, invoke: Invoke, model: Path, tmp_path: Path
) -> None:
    file = tmp_path / form
    file.write_bytes(data)
    result, _ = COMMANDS[name](invoke, model, file, tmp_path / "out")
    assert (result.exit_code, result.stdout) == (1, "")
    assert said.format(file=file) in result.stderr
    # The same from a pipe, whose beginning is not read before the work.
    if name in STREAMING:
        options = ("--input-format", form.removeprefix("a.").replace("txt", "text"))
        result = invoke(name, model, "--lang", "en", *options, input=data)
        assert result.exit_code == 1
        assert said.format(file="standard input") in result.stderr


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("form", ["csv", "tsv", "parquet"])
def test_a_table_without_rows_is_not_silent(name: str, form: str, invoke: Invoke, model: Path, tmp_path: Path) -> None:
    file = tmp_path / f"a.{form}"
    file.write_bytes(as_parquet([]) if form == "parquet" else as_csv([], mark="," if form == "csv" else "\t"))
    result, _ = COMMANDS[name](invoke, model, file, tmp_path / "out")
    if name == "score":  # every row has its row of output
        assert (result.exit_code, len(result.stdout.splitlines())) == (0, 2)
        assert "error: the table has no rows" in result.stdout
    else:
        assert (result.exit_code, result.stdout) == (1, "")
        assert f"where: {file}, row 1\n  found: the table has no rows\n" in result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_of_no_bytes_has_no_rows(name: str, invoke: Invoke, model: Path, tmp_path: Path) -> None:
    for form in ("a.txt", "a.csv", "a.tsv", "a.jsonl"):
        (tmp_path / form).touch()
        result, _ = COMMANDS[name](invoke, model, tmp_path / form, tmp_path / f"out-{form}")
        if name in STREAMING:  # nothing to write is what is asked for
            assert (result.exit_code, result.stdout.count("\n")) == (0, int(name == "score"))
        else:
            assert (result.exit_code, result.stdout) == (1, "")
            assert result.stderr.count("Error: ") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_no_file_is_one_message(name: str, invoke: Invoke, model: Path, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    for file in (tmp_path / "missing", tmp_path / "directory"):
        result, _ = COMMANDS[name](invoke, model, file, tmp_path / f"out-{file.name}")
        assert result.exit_code in (1, 2)
        assert result.stdout == ""
        assert str(file) in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["score", "tokenize", "generate", "perplexity", "learn-bpe"])
def test_a_pipe_with_a_name_is_read_as_it_comes(name: str, invoke: Invoke, model: Path, tmp_path: Path) -> None:
    plain, pipe = tmp_path / "a.txt", tmp_path / "pipe.csv"
    plain.write_bytes(FORMS["a.txt"](TEXTS))
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(FORMS["a.csv"](TEXTS)))
    writer.start()
    result, found = COMMANDS[name](invoke, model, pipe, tmp_path / "out")
    writer.join()
    assert result.exit_code == 0, result.stderr
    assert found == COMMANDS[name](invoke, model, plain, tmp_path / "plain")[1]


def test_a_prompt_that_would_be_two_lines_is_refused(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "the dog"}\n{"text": "the\\ndog"}\n')
    options = ("generate", model, "--lang", "en", tmp_path / "a.jsonl", "--greedy", "--max-new-tokens", "1")
    result = invoke(*options)
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 1
    assert "line feed" in result.stderr
    assert "a.jsonl, line 2" in result.stderr
    result = invoke(*options, "--format", "jsonl")
    assert [json.loads(line)["prompt"] for line in result.stdout.splitlines()] == ["the dog", "the\ndog"]


def test_prepare_does_not_go_on_with_another_reading(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"text,other\nthe dog,a cat\n")
    run = ("prepare", tmp_path / "data", "--model", model, "--train", f"en={file}")
    assert invoke(*run).exit_code == 0
    assert invoke(*run).exit_code == 0
    for options in (("--column", "other"), ("--input-format", "text")):
        result = invoke(*run, *options)
        assert result.exit_code == 1
        assert "another text" in result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_inputs_of_public_reports(name: str, invoke: Invoke, model: Path, reference: Path, tmp_path: Path) -> None:
    cases = reference / "cases"
    run = COMMANDS[name]
    expected = run(invoke, model, cases / "lf.txt", tmp_path / "lf")[1]
    assert expected
    for same in ("crlf.txt", "cr.csv", "cr.tsv"):
        result, found = run(invoke, model, cases / same, tmp_path / same)
        assert result.exit_code == 0
        assert found == expected
    result, _ = run(invoke, model, cases / "open_quote.csv", tmp_path / "open_quote")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"where: {cases / 'open_quote.csv'}, line 1\n" in result.stderr
    lines = "".join(f"A dog number {number}.\n" for number in range(1, 401))
    (tmp_path / "lines.txt").write_text(lines, "utf-8")
    if name != "generate":  # which is slow
        file = cases / "bytes_behind_gzip.txt.gz"
        result, found = run(invoke, model, file, tmp_path / "bytes_behind")
        assert result.exit_code == 0
        assert f"warning: {file}: 2 bytes at byte 884, after the gzip data, are ignored\n" in result.stderr
        assert found == run(invoke, model, tmp_path / "lines.txt", tmp_path / "lines")[1]
