r"""``xlm score``. Oracle: the library's own scores of each line, read back from what was printed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Invoke
from tests.demo_files import demo_maker
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.score import score
from xlm.scoring.sentence import SentenceScore
from xlm.tokenizer.tokenizer import XLMTokenizer

LINES = ["The small dog is sleeping.", "", " the dog \r", 'the\tdog \\t "and\rthe\u2028cat', "A ü 漢 \U0001f600 \\"]


@pytest.fixture
def model(demo_files: Path) -> tuple[Path | str, ...]:
    return demo_files / "demo.pth", "--codes", demo_files / "codes", "--lang", "en"


@pytest.fixture
def scores(demo_files: Path) -> list[SentenceScore]:
    tokenizer = XLMTokenizer.from_pretrained(demo_files / "demo.pth", codes=demo_files / "codes")
    return score(XLMWithLMHeadModel.from_pretrained(demo_files / "demo.pth"), tokenizer, LINES, lang="en")


def unescaped(cell: str) -> str:
    return re.sub(r"\\(.)", lambda match: {"t": "\t", "n": "\n", "r": "\r"}.get(match[1], match[1]), cell)


def rows_of(output: str, form: str) -> list[dict[str, Any]]:
    lines = output.split("\n")
    assert lines.pop() == ""
    if form == "jsonl":
        return [json.loads(line) for line in lines]
    header, *rows = (line.split("\t") for line in lines)
    assert all(len(row) == len(header) for row in rows)
    kinds: dict[str, Callable[[str], object]] = dict.fromkeys(("line", "tokens", "position", "id"), int)
    kinds |= {"logprob": float, "text": unescaped, "token": unescaped}
    return [{name: kinds[name](cell) for name, cell in zip(header, row, strict=True)} for row in rows]


def sentence_rows(scores: list[SentenceScore]) -> list[dict[str, Any]]:
    return [
        {"line": i + 1, "tokens": len(s.logprobs), "logprob": pytest.approx(s.logprob, abs=6e-7), "text": s.text}
        for i, s in enumerate(scores)
    ]


def token_rows(scores: list[SentenceScore]) -> list[dict[str, Any]]:
    return [
        {"line": i + 1, "position": j + 1, "id": s.ids[j], "token": s.tokens[j], "logprob": pytest.approx(lp, abs=6e-7)}
        for i, s in enumerate(scores)
        for j, lp in enumerate(s.logprobs)
    ]


@pytest.mark.parametrize("form", ["tsv", "jsonl"])
@pytest.mark.parametrize("by", ["sentence", "token"])
def test_rows_are_the_scores(
    invoke: Invoke, model: tuple[str, ...], scores: list[SentenceScore], by: str, form: str
) -> None:
    result = invoke("score", *model, "--by", by, "--format", form, input="\n".join(LINES).encode())
    assert (result.exit_code, result.stderr) == (0, "")
    rows = rows_of(result.stdout, form)
    expected = sentence_rows(scores) if by == "sentence" else token_rows(scores)
    assert rows == expected
    assert [list(row) for row in rows] == [list(row) for row in expected]
    assert len(rows) == (5 if by == "sentence" else sum(len(s.ids) for s in scores))


def test_the_default_is_a_sentence_a_row_in_tsv(invoke: Invoke, model: tuple[str, ...]) -> None:
    text = "the dog\n"
    plain = invoke("score", *model, input=text)
    assert plain.stdout.splitlines()[0] == "line\ttokens\tlogprob\ttext"
    assert re.fullmatch(r"1\t3\t-\d+\.\d{6}\tthe dog", plain.stdout.splitlines()[1])
    assert plain.stdout == invoke("score", *model, "--by", "sentence", "--format", "tsv", input=text).stdout


def test_no_text_leaves_the_header(invoke: Invoke, model: tuple[str, ...]) -> None:
    assert invoke("score", *model, input="").stdout == "line\ttokens\tlogprob\ttext\n"
    assert invoke("score", *model, "--format", "jsonl", input="").stdout == ""


def test_a_line_that_is_too_long_is_named_after_those_before_it(
    invoke: Invoke, model: tuple[str, ...], tmp_path: Path
) -> None:
    positions: int = demo_maker().N_POSITIONS
    file = tmp_path / "text"
    file.write_text("the dog\n" + "the " * positions + "\n", encoding="utf-8")
    result = invoke("score", *model, file)
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 2
    assert f"where: {file}, line 2\n" in result.stderr
    assert f"at most {positions}" in result.stderr
