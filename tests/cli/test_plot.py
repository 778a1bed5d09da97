"""``xlm plot``. Oracle: the library's own figure of the same results, byte by byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.figure import draw_surprisals
from xlm.scoring.score import score
from xlm.tokenizer.tokenizer import XLMTokenizer


@pytest.mark.parametrize(
    ("texts", "languages", "panels"),
    [
        (["The dog"], ["en"], [("The dog", "en")]),
        (["The dog"], ["en", "de"], [("The dog", "en de")]),
        (["The dog", "Der Hund"], ["en", "de"], [("The dog", "en"), ("Der Hund", "de")]),
        (["The dog", "A cat"], ["en"], [("The dog", "en"), ("A cat", "en")]),
    ],
    ids=str,
)
def test_the_picture_of_what_was_given(
    invoke: Invoke,
    demo_files: Path,
    tmp_path: Path,
    texts: list[str],
    languages: list[str],
    panels: list[tuple[str, str]],
) -> None:
    model = demo_files / "demo.pth"
    options = [argument for lang in languages for argument in ("--lang", lang)]
    made = tmp_path / "made.svg"
    run = ("plot", model, "--codes", demo_files / "codes", *texts, *options, "--output", made, "--unit", "nats")
    result = invoke(*run)
    assert (result.exit_code, result.stdout) == (0, ""), result.stderr
    network = XLMWithLMHeadModel.from_pretrained(model).for_inference()
    tokenizer = XLMTokenizer.from_pretrained(model, codes=demo_files / "codes")
    results = [[score(network, tokenizer, [text], lang=lang)[0] for lang in chosen.split()] for text, chosen in panels]
    expected = tmp_path / "expected.svg"
    draw_surprisals(results, expected, unit="nats")
    assert made.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "TEXT"),
        (("a", "b", "c", "--lang", "en", "--lang", "de"), "2 for 3 texts"),
        (("a", "--lang", "en", "--output", "a.gif"), ".png, .svg or .pdf"),
    ],
    ids=str,
)
def test_wrong_usage(invoke: Invoke, demo_files: Path, arguments: tuple[str, ...], said: str) -> None:
    rest = () if "--output" in arguments else ("--output", "a.png")
    result = invoke("plot", demo_files / "demo.pth", *arguments, *rest)
    assert result.exit_code == 2
    assert said in result.stderr


def test_an_unknown_language_is_a_message(invoke: Invoke, demo_files: Path, tmp_path: Path) -> None:
    files = (demo_files / "demo.pth", "--codes", demo_files / "codes")
    result = invoke("plot", *files, "a", "--lang", "fr", "--output", tmp_path / "a.png")
    assert result.exit_code == 1
    assert "remedy" in result.stderr or "expected" in result.stderr
    assert list(tmp_path.iterdir()) == []
