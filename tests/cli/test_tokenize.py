"""``xlm tokenize``. Oracle: the library's own tokens and ids of each line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from xlm.tokenizer.tokenizer import XLMTokenizer

# Of all that Python calls a line end, only the line feed is one here.
LINES = ["The small dog is sleeping.", "", "the\x0bdog\u2028and\x85the\x0ccat", "the dog\r", "   ", "a woman reads"]


@pytest.fixture
def model(demo_files: Path) -> tuple[Path | str, ...]:
    return demo_files / "demo.pth", "--codes", demo_files / "codes", "--lang", "en"


@pytest.fixture
def tokenizer(demo_files: Path) -> XLMTokenizer:
    return XLMTokenizer.from_pretrained(demo_files / "demo.pth", codes=demo_files / "codes")


def test_tokens_line_by_line(invoke: Invoke, model: tuple[str, ...], tokenizer: XLMTokenizer) -> None:
    result = invoke("tokenize", *model, input="\n".join(LINES).encode())
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "".join(" ".join(tokenizer.tokenize(line, "en")) + "\n" for line in LINES)
    assert result.stdout.splitlines()[0].startswith("The</w> small</w> dog</w>")


def test_ids_line_by_line(invoke: Invoke, model: tuple[str, ...], tokenizer: XLMTokenizer) -> None:
    result = invoke("tokenize", *model, "--output", "ids", input="\n".join(LINES).encode())
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "".join(" ".join(map(str, tokenizer.encode(line, lang="en"))) + "\n" for line in LINES)
    assert result.stdout.splitlines()[1] == "1 1"


def test_a_file_and_standard_input_alike(invoke: Invoke, model: tuple[str, ...], tmp_path: Path) -> None:
    data = ("\n".join(LINES) + "\n").encode()
    file = tmp_path / "text"
    file.write_bytes(data)
    from_file = invoke("tokenize", *model, file)
    assert from_file.exit_code == 0
    assert len(from_file.stdout.splitlines()) == len(LINES)
    assert from_file.stdout == invoke("tokenize", *model, input=data).stdout
    assert from_file.stdout == invoke("tokenize", *model, "-", input=data).stdout
    assert from_file.stdout == invoke("tokenize", *model, input=data.removesuffix(b"\n")).stdout


def test_no_text_no_output(invoke: Invoke, model: tuple[str, ...]) -> None:
    result = invoke("tokenize", *model, input=b"")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("from_file", [True, False])
def test_what_is_not_utf8_is_named(invoke: Invoke, model: tuple[str, ...], tmp_path: Path, from_file: bool) -> None:
    data = "the dog\n\nschläft".encode("latin-1") + b"\nthe cat\n"
    (tmp_path / "text").write_bytes(data)
    result = invoke("tokenize", *model, tmp_path / "text") if from_file else invoke("tokenize", *model, input=data)
    assert result.exit_code == 1
    assert result.stdout == "the</w> dog</w>\n\n"
    assert f"where: {tmp_path / 'text' if from_file else 'standard input'}, line 3\n" in result.stderr
    assert "found: not UTF-8: byte 0xe4 at byte 5 of the line" in result.stderr


def test_a_preset_is_handed_on(invoke: Invoke, model: tuple[str, ...]) -> None:
    result = invoke("tokenize", *model, "--preset", "nonsense", input="the dog\n")
    assert result.exit_code == 1
    assert "'nonsense'" in result.stderr
    assert invoke("tokenize", *model, "--preset", "transformers", input="the dog\n").exit_code == 0


def test_a_language_that_the_model_lacks(invoke: Invoke, model: tuple[str, ...]) -> None:
    result = invoke("tokenize", *model[:-1], "fr", input="the dog\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "'fr'" in result.stderr


def test_a_checkpoint_needs_its_codes(invoke: Invoke, model: tuple[str, ...]) -> None:
    result = invoke("tokenize", model[0], "--lang", "en", input="the dog\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "codes" in result.stderr


@pytest.mark.parametrize("output", ["tokens", "ids"])
def test_several_processes_write_the_same(invoke: Invoke, model: tuple[str, ...], output: str) -> None:
    text = "".join(f"{line} {i}\n" for i in range(3000) for line in LINES)
    one, two = (
        invoke("tokenize", *model, "--output", output, "--workers", workers, input=text.encode())
        for workers in ("1", "2")
    )
    assert (one.exit_code, two.exit_code, two.stderr) == (0, 0, "")
    assert one.stdout == two.stdout
    assert len(one.stdout.splitlines()) == 3000 * len(LINES)


def test_several_processes_write_what_stands_before_an_error(invoke: Invoke, model: tuple[str, ...]) -> None:
    result = invoke("tokenize", *model, "--workers", "2", input=b"the dog\n" * 6000 + b"\xff\n")
    assert (result.exit_code, result.stdout) == (1, "the</w> dog</w>\n" * 6000)
    assert "line 6001" in result.stderr
    assert invoke("tokenize", *model[:-1], "fr", "--workers", "2", input="the dog\n").exit_code == 1


def test_text_from_a_terminal_ends_where_it_ends(model: tuple[str, ...]) -> None:
    """By Ctrl-D for the text and Ctrl-D for the end, behind which nothing more is waited for."""
    ours, terminal = os.openpty()
    command = [sys.executable, "-m", "xlm", "tokenize", *map(str, model), "--workers", "2"]
    with subprocess.Popen(command, stdin=terminal, stdout=subprocess.PIPE) as process:
        os.close(terminal)
        os.write(ours, b"the dog\n\x04\x04")
        try:
            assert process.communicate(timeout=30)[0] == b"the</w> dog</w>\n"
        finally:
            process.kill()
            os.close(ours)
