"""``xlm translate``.

Oracle: the library's translation of each text alone; for a run that is resumed, the bytes of one that nothing stopped.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Invoke
from tests.cli.test_score_resume import run_until
from tests.cli.test_terminal import on_terminal
from tests.killed import needs_fork, run_killed
from tests.tokenizer.small import TEXT
from xlm.model.seq2seq import XLMEncoderDecoderModel
from xlm.tokenizer.tokenizer import XLMTokenizer
from xlm.translation.translator import Translation, translate

WORDS = TEXT.split()
COLUMNS = ["line", "text", "translation", "rank", "logprob", "score", "stop", "status"]


def sentences(count: int, *, seed: int) -> list[str]:
    choose = random.Random(seed)
    return [" ".join(choose.choices(WORDS, k=choose.randint(1, 5))) for _ in range(count)]


def alone(directory: Path, text: str, **options: Any) -> tuple[Translation, ...]:
    """Translations of one text from German to English, in a batch of its own."""
    model, tokenizer = XLMEncoderDecoderModel.from_pretrained(directory), XLMTokenizer.from_pretrained(directory)
    (result,) = translate(model, tokenizer, [text], source="de", target="en", **options)
    return result.translations


def command(translator: Path, *arguments: str | Path) -> list[str | Path]:
    return ["translate", translator, "--from", "de", "--to", "en", *arguments]


def near(value: float | None) -> Any:
    # Six decimals are printed, and the other texts of a batch change the last digits of each token's log-probability.
    return None if value is None else pytest.approx(value, rel=3e-6, abs=3e-6)


@pytest.mark.parametrize("form", ["tsv", "jsonl"])
@pytest.mark.parametrize("beams", [1, 3])
def test_rows_are_the_translations(invoke: Invoke, translator: Path, form: str, beams: int) -> None:
    texts = sentences(9, seed=1)
    options = ["--batch-size", "4", "--num-beams", str(beams), "--n-best", str(beams), "--format", form]
    beam_options: dict[str, Any] = {}
    if beams > 1:
        beam_options = {"length_penalty": 0.5, "early_stopping": True}
        options += ["--length-penalty", "0.5", "--early-stopping"]
    result = invoke(*command(translator, *options), input="\n".join(texts))
    assert result.exit_code == 0, result.output
    expected = [
        {
            "line": line,
            "text": text,
            "translation": translation.text,
            "rank": rank,
            "logprob": near(translation.logprob),
            "score": near(translation.score),
            "stop": translation.stop,
            "status": "ok",
        }
        for line, text in enumerate(texts, start=1)
        for rank, translation in enumerate(
            alone(translator, text, num_beams=beams, n_best=beams, **beam_options), start=1
        )
    ]
    assert len(expected) == 9 * beams
    if form == "jsonl":
        rows = [json.loads(line) for line in result.stdout.splitlines()]
    else:
        kinds: dict[str, Any] = {"line": int, "rank": int, "logprob": float, "score": lambda cell: float(cell or "nan")}
        rows = [
            {name: kinds.get(name, str)(cell) for name, cell in row.items()}
            for row in csv.DictReader(io.StringIO(result.stdout, newline=""), dialect="excel-tab")
        ]
        rows = [{**row, "score": None} if row["score"] != row["score"] else row for row in rows]
    assert [list(row) for row in rows] == [COLUMNS] * len(rows)
    assert rows == expected
    assert "|lang:de-en|protocol:translation|" in result.stderr
    assert "stopped: " in result.stderr


def test_text_has_a_line_for_each_row(invoke: Invoke, translator: Path) -> None:
    texts = sentences(3, seed=2)
    result = invoke(*command(translator), input=f"{texts[0]}\n\n{' '.join(WORDS * 2)}\n{texts[1]}\n".encode() + b"\xff")
    assert result.exit_code == 1
    lines = result.stdout.split("\n")
    expected = [alone(translator, text)[0].text for text in texts[:2]]
    assert lines == [expected[0], "", "", expected[1], "", ""]
    assert "standard input, line 2: the text is empty\n" in result.stderr
    assert "standard input, line 3: " in result.stderr
    assert "more than the model's 32 positions" in result.stderr
    assert "standard input, line 5: not UTF-8" in result.stderr
    assert "Error: 3 rows without a translation" in result.stderr
    one = invoke(*command(translator), input=f"{texts[0]}\n\n")
    assert "Error: 1 row without a translation\n" in one.stderr
    none = invoke(*command(translator), input="")
    assert (none.exit_code, none.stdout) == (0, "")
    assert "there are no texts to translate\n" in none.stderr
    clean = invoke(*command(translator), input=texts[0])
    assert (clean.exit_code, clean.stdout) == (0, f"{expected[0]}\n")


def test_words_may_stay_between_spaces(invoke: Invoke, translator: Path) -> None:
    for text in sentences(4, seed=3):
        result = invoke(*command(translator, "--tokenized", "--max-length", "6"), input=text)
        (expected,) = alone(translator, text, tokenized=True, max_length=6)
        assert result.stdout == f"{expected.text}\n"


def test_a_row_without_a_translation_keeps_its_place(invoke: Invoke, translator: Path) -> None:
    result = invoke(*command(translator, "--format", "jsonl"), input=f"{WORDS[0]}\n\n{' '.join(WORDS * 2)}\n")
    assert result.exit_code == 0
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["line"] for row in rows] == [1, 2, 3]
    assert [row["rank"] for row in rows] == [1, None, None]
    assert rows[1]["status"] == "error: the text is empty"
    assert rows[2]["status"].startswith("error: ")
    assert rows[2]["text"] == " ".join(WORDS * 2)
    assert "2 rows without a translation; the column status" in result.stderr


def test_several_files_have_a_column(invoke: Invoke, translator: Path, tmp_path: Path) -> None:
    texts = sentences(3, seed=4)
    files = [tmp_path / "a.txt", tmp_path / "b.jsonl", tmp_path / "c.csv.gz", tmp_path / "damaged.txt.gz"]
    files[0].write_text(f"{texts[0]}\n", "utf-8")
    files[1].write_text(json.dumps({"text": texts[1]}) + "\n", "utf-8")
    files[2].write_bytes(gzip.compress(f'id,text\n1,"{texts[2]}"\n'.encode()))
    files[3].write_bytes(gzip.compress(b"a\n" * 99)[:-12])
    result = invoke(*command(translator, *files, "--format", "jsonl"))
    assert result.exit_code == 1
    assert "damaged.txt.gz" in result.stderr.partition("Error: ")[2]
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert list(rows[0]) == ["file", *COLUMNS]
    assert [(row["file"], row["line"]) for row in rows[:3]] == [(str(file), 1) for file in files[:3]]
    assert [row["translation"] for row in rows[:3]] == [alone(translator, text)[0].text for text in texts]


@pytest.mark.parametrize("options", [(), ("--format", "tsv", "--num-beams", "2", "--n-best", "2")])
def test_killed_and_resumed_is_byte_for_byte_the_same(
    invoke: Invoke, translator: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    texts, whole, output = tmp_path / "in.txt", tmp_path / "whole", tmp_path / "out"
    lines = sentences(2000, seed=5)
    lines[1500] = ""
    texts.write_text("\n".join(lines) + "\n", "utf-8")
    status = 0 if options else 1
    arguments = command(translator, texts, "--batch-size", "2", *options)
    uninterrupted = invoke(*arguments, "--output", whole)
    assert uninterrupted.exit_code == status
    (stopped,) = re.findall("stopped: .*", uninterrupted.stderr)
    resumed = [str(argument) for argument in (*arguments, "--output", output, "--resume")]
    for share in (0.1, 0.5):
        assert run_until(resumed, tmp_path / "out.part", int(share * whole.stat().st_size))
    assert not output.exists()
    rows = json.loads((tmp_path / "out.part.json").read_text("utf-8"))["rows"]
    assert 0 < rows < 2000
    other = invoke(*resumed, "--max-length", "9")
    assert other.exit_code == 1
    assert "options" in other.stderr
    result = invoke(*resumed)
    assert result.exit_code == status, result.output
    assert output.read_bytes() == whole.read_bytes()
    rows_out = output.read_text("utf-8").splitlines()
    assert len(rows_out if not options else {row.partition("\t")[0] for row in rows_out} - {"line"}) == 2000
    assert (tmp_path / "out.meta.json").read_bytes() == (tmp_path / "whole.meta.json").read_bytes()
    again = invoke(*resumed)
    assert (again.exit_code, "already complete" in again.stderr) == (status, True)
    for continued in (result, again):
        assert stopped in continued.stderr.splitlines()


@needs_fork
@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_before_a_change_of_a_file(translator: Path, tmp_path: Path, every: int) -> None:
    """At any such moment, with compressed input and several translations of each row."""
    lines = sentences(40, seed=7)
    lines[20] = ""
    texts = tmp_path / "in.gz"
    texts.write_bytes(gzip.compress("\n".join(lines).encode()))
    options = ["--batch-size", "1", "--max-length", "5", "--num-beams", "2", "--n-best", "2", "--format", "jsonl"]
    runs = run_killed(tmp_path / "runs", every, *command(translator, texts, *options, "--output", "OUTPUT", "--resume"))
    assert len(runs) > 1
    whole, *others = runs
    assert {json.loads(row)["line"] for row in whole.read_text("utf-8").splitlines()} == set(range(1, 41))
    for output in others:
        assert output.read_bytes() == whole.read_bytes()
        assert Path(f"{output}.meta.json").read_bytes() == Path(f"{whole}.meta.json").read_bytes()
    assert len(list((tmp_path / "runs").iterdir())) == 2 * len(runs)  # nothing unfinished is left


def test_a_terminal_shows_aligned_columns(translator: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("\n".join(sentences(5, seed=6)), "utf-8")
    lines = on_terminal(*map(str, command(translator, tmp_path / "in.txt")), columns=100)
    assert lines[0].split() == COLUMNS
    assert len(lines) == 6
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--to", "de"), 2, "the same language: de"),
        (("--to", "fr"), 1, "does not have this language"),
        (("--from", "fr"), 1, "does not have this language"),
        (("--n-best", "2", "--format", "tsv"), 2, "--n-best: expected at most 1"),
        (("--n-best", "2", "--num-beams", "2"), 2, "--n-best above 1 requires --format tsv or jsonl"),
        (("--length-penalty", "0"), 2, "require --num-beams above 1"),
        (("--early-stopping",), 2, "require --num-beams above 1"),
        (("--max-length", "1"), 2, "--max-length"),
        (("--resume",), 2, "--resume requires --output"),
        (("--num-beams", "2", "--length-penalty", "nan"), 1, "length_penalty"),
        (("--output-dir", "x"), 2, "only with --engine ray"),
    ],
)
def test_mistakes_are_named(
    invoke: Invoke, translator: Path, options: tuple[str, ...], status: int, message: str
) -> None:
    result = invoke(*command(translator), *options, input="a\n")
    assert (result.exit_code, result.stdout) == (status, "")
    assert message in result.stderr
    assert result.stderr.count("Error: ") == 1


def test_models_of_another_kind_are_refused(invoke: Invoke, translator: Path, demo_files: Path) -> None:
    language_model = [demo_files / "demo.pth", "--codes", demo_files / "codes"]
    result = invoke("translate", *language_model, "--from", "de", "--to", "en", input="a\n")
    assert result.exit_code == 1
    assert "a language model, not a translation model" in result.stderr
    result = invoke("score", translator, "--lang", "en", input="a\n")
    assert result.exit_code == 1
    assert "a translation model, not a language model" in result.stderr


def test_an_input_is_not_overwritten(invoke: Invoke, translator: Path, tmp_path: Path) -> None:
    text = tmp_path / "in.txt"
    text.write_text("a\n", "utf-8")
    result = invoke(*command(translator, text, "--output", text))
    assert result.exit_code == 2
    assert "would overwrite an input" in result.stderr
