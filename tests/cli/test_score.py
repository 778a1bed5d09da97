r"""``xlm score``. Oracle: the library's own scores of each line, read back from what was printed."""

from __future__ import annotations

import csv
import gc
import gzip
import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Invoke
from tests.demo_files import demo_maker
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring import table
from xlm.scoring.score import score
from xlm.scoring.scorer import SentenceScore
from xlm.tokenizer.tokenizer import XLMTokenizer

HEADER = "line\ttokens\tlogprob\tunknown\ttext\tstatus"
LINES = ["The small dog is sleeping.", "", " the dog \r ", 'the\tdog \\t "and\rthe\u2028cat', "A ü 漢 \U0001f600 \\"]


@pytest.fixture
def model(demo_files: Path) -> tuple[Path | str, ...]:
    return demo_files / "demo.pth", "--codes", demo_files / "codes", "--lang", "en"


@pytest.fixture
def scores(demo_files: Path) -> list[SentenceScore]:
    tokenizer = XLMTokenizer.from_pretrained(demo_files / "demo.pth", codes=demo_files / "codes")
    return score(XLMWithLMHeadModel.from_pretrained(demo_files / "demo.pth"), tokenizer, LINES, lang="en")


def rows_of(output: str, form: str) -> list[dict[str, Any]]:
    assert output.endswith("\n") or not output
    if form == "jsonl":
        return [json.loads(line) for line in output.split("\n")[:-1]]
    header, *rows = csv.reader(io.StringIO(output, newline=""), dialect="excel-tab")
    assert all(len(row) == len(header) for row in rows)
    wholes = ("line", "tokens", "position", "id", "word", "start", "end", "unknown")
    kinds: dict[str, Callable[[str], object]] = dict.fromkeys(wholes, lambda cell: int(cell) if cell else None)
    kinds["logprob"] = lambda cell: float(cell) if cell else None
    return [{name: kinds.get(name, str)(cell) for name, cell in zip(header, row, strict=True)} for row in rows]


def sentence_rows(scores: list[SentenceScore]) -> list[dict[str, Any]]:
    return [
        {
            "line": i + 1,
            "tokens": len(s.logprobs),
            "logprob": near(s.logprob),
            "unknown": s.ids.count(3),
            "text": s.text,
            "status": status(s),
        }
        for i, s in enumerate(scores)
    ]


def word_rows(scores: list[SentenceScore]) -> list[dict[str, Any]]:
    rows = []
    for i, s in enumerate(scores):
        words = [(w.start, w.end, w.tokens, -w.surprisal, w.unknown, w.text) for w in s.words]
        words.append((len(s.text), len(s.text), 1, s.logprobs[-1], False, "</s>"))
        rows += [
            {
                "line": i + 1,
                "word": j + 1,
                "start": start,
                "end": end,
                "tokens": tokens,
                "logprob": near(logprob),
                "unknown": unknown,
                "text": text,
                "status": status(s),
            }
            for j, (start, end, tokens, logprob, unknown, text) in enumerate(words)
        ]
    return rows


def token_rows(scores: list[SentenceScore]) -> list[dict[str, Any]]:
    return [
        {
            "line": i + 1,
            "position": j + 1,
            "id": s.ids[j],
            "token": s.tokens[j],
            "logprob": near(lp),
            "unknown": s.ids[j] == 3,
            "status": status(s),
        }
        for i, s in enumerate(scores)
        for j, lp in enumerate(s.logprobs)
    ]


def near(value: float) -> Any:
    # Six decimals are printed, and the other lines of a batch change the seventh.
    return pytest.approx(value, abs=3e-6)


def status(score: SentenceScore) -> str:
    return "ok" if score.text.strip() else "empty"


ROWS = {"sentence": sentence_rows, "word": word_rows, "token": token_rows}


@pytest.mark.parametrize("form", ["tsv", "jsonl"])
@pytest.mark.parametrize("by", ["sentence", "word", "token"])
def test_rows_are_the_scores(
    invoke: Invoke, model: tuple[str, ...], scores: list[SentenceScore], by: str, form: str
) -> None:
    result = invoke("score", *model, "--by", by, "--format", form, input="\n".join(LINES).encode())
    assert result.exit_code == 0
    rows = rows_of(result.stdout, form)
    expected = ROWS[by](scores)
    assert rows == expected
    assert [list(row) for row in rows] == [list(row) for row in expected]
    assert {row["line"] for row in rows} == {1, 2, 3, 4, 5}
    assert sum(row["unknown"] for row in rows) > 0
    assert result.stderr.endswith(f"|unknown:{sum(s.ids.count(3) for s in scores)}\n")


def test_the_default_is_a_sentence_a_row_in_tsv(invoke: Invoke, model: tuple[str, ...]) -> None:
    text = "the dog\n"
    plain = invoke("score", *model, input=text)
    assert plain.stdout.splitlines()[0] == HEADER
    assert re.fullmatch(r"1\t3\t-\d+\.\d{6}\t0\tthe dog\tok", plain.stdout.splitlines()[1])
    assert plain.stdout == invoke("score", *model, "--by", "sentence", "--format", "tsv", input=text).stdout


QUOTED = '"Well, I say null is NA," he said. "Go now."\nHe said "yes\nThe end.\nMore "text here.\n'


def test_words_with_quotes_reach_other_programs(invoke: Invoke, model: tuple[str, ...], tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    result = invoke("score", *model, "--by", "word", input=QUOTED)
    words = [word for line in QUOTED.splitlines() for word in (*line.split(), "</s>")]
    assert len(words) == 22
    by_default = pandas.read_csv(io.StringIO(result.stdout), sep="\t")
    assert by_default["line"].tolist() == [1] * 11 + [2] * 4 + [3] * 3 + [4] * 4
    documented = pandas.read_csv(io.StringIO(result.stdout), sep="\t", keep_default_na=False)
    assert documented["text"].tolist() == words
    assert documented["logprob"].dtype == float
    with_error = invoke("score", *model, input=b"the dog\n\xff\n").stdout
    options = {"keep_default_na": False, "na_values": {"logprob": ""}}
    assert pandas.read_csv(io.StringIO(with_error), sep="\t", **options)["logprob"].isna().tolist() == [False, True]
    # What is written is read back: the words are the texts of the next run.
    (tmp_path / "words.tsv").write_bytes(result.stdout_bytes)
    again = rows_of(invoke("score", *model, tmp_path / "words.tsv").stdout, "tsv")
    assert [row["text"] for row in again] == words


def test_quotes_of_the_case(invoke: Invoke, model: tuple[str, ...], reference: Path) -> None:
    assert (reference / "cases" / "quotes.txt").read_text(encoding="utf-8") == QUOTED


def test_no_text_leaves_the_header(invoke: Invoke, model: tuple[str, ...]) -> None:
    assert invoke("score", *model, input="").stdout == f"{HEADER}\n"
    assert invoke("score", *model, "--format", "jsonl", input="").stdout == ""


def test_the_signature_is_on_standard_error(invoke: Invoke, model: tuple[str, ...]) -> None:
    result = invoke("score", *model, input="the dog\n")
    assert re.fullmatch(
        r"signature: model:\w+\|tokenizer:\w+\|preset:original\|lang:en\|protocol:sentence\|long:stride \d+\|"
        r"dtype:float32\|device:cpu\|torch:[^|]+\|xlm:[^|]+\|unit:nats\|unknown:0\n",
        result.stderr,
    )
    other = invoke("score", *model, "--dtype", "bfloat16", "--too-long", "refuse", input="the dog\n").stderr
    assert "|long:refuse|dtype:bfloat16|" in other


def test_ranks_and_entropies(invoke: Invoke, model: tuple[str, ...], demo_files: Path) -> None:
    options = ("--by", "token", "--ranks", "--entropy", "--format", "jsonl")
    rows = rows_of(invoke("score", *model, *options, input="the dog\n").stdout, "jsonl")
    names = ["line", "position", "id", "token", "logprob", "rank", "entropy", "unknown", "status"]
    assert list(rows[0]) == names
    tokenizer = XLMTokenizer.from_pretrained(demo_files / "demo.pth", codes=demo_files / "codes")
    network = XLMWithLMHeadModel.from_pretrained(demo_files / "demo.pth")
    (expected,) = score(network, tokenizer, ["the dog"], lang="en", ranks=True, entropies=True)
    assert [row["logprob"] for row in rows] == pytest.approx(expected.logprobs, abs=3e-6)
    assert tuple(row["rank"] for row in rows) == expected.ranks
    assert [row["entropy"] for row in rows] == pytest.approx(list(expected.entropies or ()), abs=3e-6)


def test_a_row_that_is_too_long_is_windows_or_says_so(invoke: Invoke, model: tuple[str, ...]) -> None:
    positions: int = demo_maker().N_POSITIONS
    text = "the dog\n" + "the " * positions + "\nthe dog\n"
    rows = rows_of(invoke("score", *model, input=text).stdout, "tsv")
    assert [row["status"] for row in rows] == ["ok", "long: 2 windows", "ok"]
    refused = rows_of(invoke("score", *model, "--too-long", "refuse", input=text).stdout, "tsv")
    assert [refused[0], refused[2]] == [rows[0], rows[2]]
    assert refused[1]["status"].startswith("error: a text is longer than the model's positions: ")
    assert (refused[1]["logprob"], refused[1]["tokens"]) == (None, None)
    assert refused[1]["text"] == rows[1]["text"]


HOSTILE = {
    "text": b"the dog\n\xff\n\n\x00\nthe dog",
    "jsonl": b'{"text": "the dog"}\n\n3\n{"text": "\\ud800"}\n{"text": "the dog"}',
    "csv": b'text\nthe dog\n"\xff"\n"a"b\n"two\nlines ""x"""\nthe dog',
}


@pytest.mark.parametrize("by", ["sentence", "word", "token"])
@pytest.mark.parametrize("kind", list(HOSTILE))
def test_every_row_comes_out(invoke: Invoke, model: tuple[str, ...], kind: str, by: str) -> None:
    options = ("--input-format", kind, "--by", by, "--format", "jsonl")
    result = invoke("score", *model, *options, input=HOSTILE[kind])
    assert result.exit_code == 0
    rows = rows_of(result.stdout, "jsonl")
    assert list(dict.fromkeys(row["line"] for row in rows)) == [1, 2, 3, 4, 5]
    wrong = [row for row in rows if row["status"].startswith("error: ")]
    assert [row["line"] for row in wrong] == {"text": [2], "jsonl": [2, 3, 4], "csv": [2, 3]}[kind]
    assert all(row["logprob"] is None for row in wrong)
    count = "1 row" if len(wrong) == 1 else f"{len(wrong)} rows"
    assert f"{count} could not be scored" in result.stderr
    (first, last) = ([row for row in rows if row["line"] == line] for line in (1, 5))
    assert [row["logprob"] for row in first] == pytest.approx([row["logprob"] for row in last], abs=3e-6)


def test_several_files_have_a_column(invoke: Invoke, model: tuple[str, ...], tmp_path: Path) -> None:
    files = [tmp_path / "a.txt", tmp_path / "b.jsonl", tmp_path / "c.txt.gz", tmp_path / "empty.csv"]
    files[0].write_bytes(b"the dog\nthe cat\n")
    files[1].write_bytes(b'{"text": "the dog"}\n')
    files[2].write_bytes(gzip.compress(b"the dog\n" * 1000)[:-20])
    files[3].write_bytes(b"")
    result = invoke("score", *model, *files)
    rows = rows_of(result.stdout, "tsv")
    assert next(iter(rows[0])) == "file"
    assert [row["file"] for row in rows[:3]] == [str(files[0])] * 2 + [str(files[1])]
    assert [row["line"] for row in rows[:4]] == [1, 2, 1, 1]
    logprobs = [row["logprob"] for row in rows if row["text"] == "the dog"]
    assert max(logprobs) - min(logprobs) < 1e-5  # rows of two files share no batch
    # What could be read of the damaged file is there; that it is damaged is said three times, and by the status.
    assert rows[-1]["status"].startswith("error: the file is damaged from here on")
    assert result.exit_code == 1
    assert str(files[2]) in result.stderr


def test_a_line_of_a_megabyte(invoke: Invoke, model: tuple[str, ...]) -> None:
    result = invoke("score", *model, input="the dog " * (1 << 17) + "\nthe dog\n")
    long, short = rows_of(result.stdout, "tsv")
    assert long["tokens"] == (1 << 18) + 1
    assert long["status"].startswith("long: ")
    assert math.isfinite(long["logprob"])
    assert short["status"] == "ok"


@pytest.mark.parametrize("by", ["sentence", "word", "token"])
def test_parquet_in_and_out(invoke: Invoke, model: tuple[str, ...], tmp_path: Path, by: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"source": [*LINES, None]}), tmp_path / "in.parquet")
    options = ("--column", "source", "--by", by)
    output = tmp_path / "out.parquet"
    result = invoke("score", *model, tmp_path / "in.parquet", *options, "--format", "parquet", "--output", output)
    assert (result.exit_code, result.stdout) == (0, "")
    table = parquet.read_table(output)
    expected = rows_of(invoke("score", *model, tmp_path / "in.parquet", *options, "--format", "jsonl").stdout, "jsonl")
    found = table.to_pylist()
    assert [{**row, "logprob": None} for row in found] == [{**row, "logprob": None} for row in expected]
    for row, same in zip(found, expected, strict=True):
        assert row["logprob"] == (None if same["logprob"] is None else pytest.approx(same["logprob"], abs=6e-7))
    assert found[-1]["status"] == "error: 'source' is not text: NoneType"
    assert table.schema.metadata[b"xlm.signature"].decode() in result.stderr
    assert table.schema.field("line").type == pyarrow.int64()


def test_output_stands_under_its_name_when_it_is_complete(
    invoke: Invoke, model: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes("\n".join(LINES).encode())
    output = tmp_path / "out.tsv"
    result = invoke("score", *model, tmp_path / "in", "--output", output, "--bits")
    assert (result.exit_code, result.stdout) == (0, "")
    assert output.read_bytes() == invoke("score", *model, tmp_path / "in", "--bits").stdout_bytes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.tsv", "out.tsv.meta.json"]
    meta = json.loads((tmp_path / "out.tsv.meta.json").read_text(encoding="utf-8"))
    assert f"signature: {meta['signature']}|unknown:{meta['counts']['unknown']}\n" == result.stderr
    assert meta["counts"]["unknown"] > 0
    assert (meta["rows"], meta["by"], meta["inputs"]) == (
        5,
        "sentence",
        [[str(tmp_path / "in"), len("\n".join(LINES).encode())]],
    )
    again = invoke("score", *model, tmp_path / "in", "--output", output, "--bits", "--resume")
    assert again.exit_code == 0
    assert again.stderr == f"{output} is already complete\n{result.stderr}"


def test_each_line_at_once_when_nothing_is_read_ahead(demo_files: Path) -> None:
    command = [sys.executable, "-m", "xlm", "score", str(demo_files / "demo.pth"), "--codes", str(demo_files / "codes")]
    command += ["--lang", "en", "--read-ahead", "1", "--progress"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        for number in range(3):
            process.stdin.write(b"the dog\n")
            process.stdin.flush()
            if number == 0:
                assert process.stdout.readline().decode() == f"{HEADER}\n"
            assert process.stdout.readline().startswith(f"{number + 1}\t3\t-".encode())  # the input is still open
        process.stdin.close()
        assert re.search(
            r"\n3 rows \[\d\d:\d\d, .* rows/s, [\d,]+ tokens/s\]\nsignature", process.stderr.read().decode()
        )
        assert process.wait() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="needs terminals")
def test_each_line_that_is_typed_at_a_terminal_is_answered_at_once(demo_files: Path) -> None:
    import pty

    typing, terminal = pty.openpty()
    command = [sys.executable, "-m", "xlm", "score", str(demo_files / "demo.pth"), "--codes", str(demo_files / "codes")]
    with subprocess.Popen([*command, "--lang", "en"], stdin=terminal, stdout=subprocess.PIPE) as process:
        os.close(terminal)
        assert process.stdout is not None
        try:
            for number in (1, 2):
                os.write(typing, b"the dog\n")
                if number == 1:
                    assert process.stdout.readline().decode() == f"{HEADER}\n"
                assert process.stdout.readline().startswith(f"{number}\t3\t-".encode())  # the input is still open
        finally:
            os.close(typing)  # as a terminal that is closed
        process.kill()


@pytest.mark.parametrize(
    "options",
    [
        ("--ranks",),
        ("--entropy", "--by", "sentence"),
        ("--resume",),
        ("--format", "parquet"),
        ("no-such-file",),
        (".",),
        ("--stride", "0"),
        ("--stride", "100000"),
        ("--column", "text"),
        ("--input-format", "parquet"),
    ],
    ids=" ".join,
)
def test_wrong_usage(invoke: Invoke, model: tuple[str, ...], options: tuple[str, ...]) -> None:
    result = invoke("score", *model, *options, input="the dog\n")
    assert (result.exit_code, result.stdout) == (2, "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--device", "tpu9"), "No such device"),
        (("--device", "meta"), "No such device"),
    ],
)
def test_what_cannot_be_done_is_said(
    invoke: Invoke, model: tuple[str, ...], options: tuple[str, ...], message: str
) -> None:
    result = invoke("score", *model, *options, input="the dog\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr


def test_a_second_language_is_not_ignored_in_silence(invoke: Invoke, model: tuple[str, ...]) -> None:
    twice, once = (invoke("score", *arguments, "--lang", "de", input="the dog\n") for arguments in (model, model[:-2]))
    assert twice.stdout == once.stdout
    assert "warning: all texts are in one language, the last of --lang: de" in twice.stderr
    assert "warning" not in once.stderr


def test_the_output_is_not_an_input(invoke: Invoke, model: tuple[str, ...], tmp_path: Path) -> None:
    text, link = tmp_path / "in.txt", tmp_path / "link"
    text.write_bytes(b"the dog\n")
    link.symlink_to(text)
    (tmp_path / "hard").hardlink_to(text)
    (tmp_path / "out.meta.json").write_bytes(b"the dog\n")
    pairs = [(text, text), (text, link), (link, text), (text, tmp_path / "hard")]
    pairs.append((tmp_path / "out.meta.json", tmp_path / "out"))
    for given, output in pairs:
        result = invoke("score", *model, given, "--output", output)
        assert result.exit_code == 2
        assert "would overwrite an input" in result.stderr
    assert text.read_bytes() == (tmp_path / "out.meta.json").read_bytes() == b"the dog\n"


def test_a_device_is_not_replaced_by_a_file(invoke: Invoke, model: tuple[str, ...]) -> None:
    result = invoke("score", *model, "--output", os.devnull, input="the dog\n")
    assert result.exit_code == 1
    assert "not a regular file" in result.stderr
    assert Path(os.devnull).is_char_device()


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="needs /dev/stdout")
def test_a_pipe_by_its_name_in_dev_is_refused_by_that_name(model: tuple[str, ...]) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "xlm", "score", *map(str, model), "--output", "/dev/stdout"],
        input=b"",
        capture_output=True,
    )
    assert run.returncode == 1
    assert b"not a regular file" in run.stderr
    assert b"where: /dev/stdout" in run.stderr


def test_parquet_without_pyarrow_is_noticed_first(
    invoke: Invoke, model: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = invoke("score", *model, "--format", "parquet", "--output", tmp_path / "out", input="the dog\n")
    assert result.exit_code == 1
    assert "xlm[parquet]" in result.stderr
    assert "signature" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_name_that_is_not_utf8(invoke: Invoke, model: tuple[str, ...], tmp_path: Path) -> None:
    strange, plain = tmp_path / os.fsdecode(b"a\xff.txt"), tmp_path / "b.txt"
    try:
        strange.write_bytes(b"the dog\n")
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    plain.write_bytes(b"the dog\n")
    result = invoke("score", *model, strange, plain)
    assert result.exit_code == 0
    assert [row["file"] for row in rows_of(result.stdout, "tsv")] == [f"{tmp_path}/a\\xff.txt", str(plain)]


@pytest.mark.parametrize("fails", [False, True])
def test_the_garbage_collector_gets_everything_back(
    invoke: Invoke, model: tuple[Path | str, ...], monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    frozen: list[int] = []
    scored_lines = table.scored_lines

    def recording(*arguments: Any) -> Any:
        frozen.append(gc.get_freeze_count())
        return None if fails else scored_lines(*arguments)

    monkeypatch.setattr(table, "scored_lines", recording)
    assert invoke("score", *model, input="the dog\n").exit_code == int(fails)
    assert frozen[0] > 0
    assert gc.get_freeze_count() == 0
