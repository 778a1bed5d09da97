"""Tables on a terminal. Oracle: the same table as TSV, and the width of the terminal."""

from __future__ import annotations

import csv
import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
import unicodedata
from pathlib import Path

import pytest

from xlm.cli._output import TableWriter

SENTENCES = ["The small dog is sleeping.", "", "A 漢字 cat\tand a \x1b[31mdog", "the dog " * 60]


@pytest.fixture
def model(demo_files: Path) -> tuple[str, ...]:
    return str(demo_files / "demo.pth"), "--codes", str(demo_files / "codes"), "--lang", "en"


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text"
    path.write_text("".join(f"{sentence}\n" for sentence in SENTENCES), "utf-8")
    return str(path)


def on_terminal(*arguments: str, columns: int = 80) -> list[str]:
    """Run ``xlm`` with a terminal as standard output, and return its lines."""
    ours, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    command = [sys.executable, "-m", "xlm", *arguments]
    with subprocess.Popen(command, stdout=terminal, stderr=subprocess.PIPE, env=environment) as process:
        os.close(terminal)
        output = b""
        try:
            while block := os.read(ours, 1 << 16):
                output += block
        except OSError:  # the end, on Linux
            pass
        os.close(ours)
        assert process.stderr is not None
        assert process.wait() == 0, process.stderr.read()
    return output.decode().replace("\r\n", "\n").splitlines()


def width(line: str) -> int:
    return sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in line)


def piped(*arguments: str) -> str:
    command = [sys.executable, "-m", "xlm", *arguments]
    return subprocess.run(command, check=True, capture_output=True).stdout.decode()


@pytest.mark.parametrize("by", ["sentence", "word", "token"])
def test_scores_are_aligned(model: tuple[str, ...], text: str, by: str) -> None:
    arguments = ("score", *model, text, "--by", by)
    header, *rows = csv.reader(piped(*arguments).splitlines(keepends=True), dialect="excel-tab")
    lines = on_terminal(*arguments, columns=200)
    assert lines[0].split() == header
    assert len(lines) == len(rows) + 1
    assert not any("\x1b" in line or "\t" in line for line in lines)
    ends = {
        width(line[: line.index(row[header.index("logprob")]) + len(row[header.index("logprob")])])
        for line, row in zip(lines[1:], rows, strict=True)
    }
    assert len(ends) == 1, "the numbers end in one column"
    assert max(map(width, lines)) <= 200
    short = [line for line, row in zip(lines[1:], rows, strict=True) if row[0] == "1"]
    assert all(re.split(" {2,}", line.strip())[-1] == "ok" for line in short)


def test_long_texts_are_cut_at_the_width_only_on_a_terminal(model: tuple[str, ...], text: str, tmp_path: Path) -> None:
    arguments = ("score", *model, text)
    for columns in (60, 100):
        lines = on_terminal(*arguments, columns=columns)
        assert max(map(width, lines)) == columns
        assert re.search(r" the dog t[a-z ]*…  ", lines[4])
        assert re.search(r"-\d+\.\d{6} ", lines[4]), "numbers are whole"
    assert SENTENCES[3].strip() in piped(*arguments)
    on_terminal(*arguments, "--output", str(tmp_path / "out.tsv"))
    assert (tmp_path / "out.tsv").read_text("utf-8") == piped(*arguments)


@pytest.mark.parametrize("command", ["score", "perplexity"])
def test_a_format_that_is_named_is_kept(model: tuple[str, ...], text: str, command: str) -> None:
    for format in ("tsv", "jsonl"):
        arguments = (command, *model, text, "--format", format)
        # A terminal shows tabs as they are if the driver does not expand them.
        assert "\n".join(on_terminal(*arguments)) == "\n".join(piped(*arguments).splitlines())


def test_perplexities_are_aligned(model: tuple[str, ...], text: str) -> None:
    arguments = ("perplexity", *model, text)
    header, row = (line.split("\t") for line in piped(*arguments).splitlines())
    lines = on_terminal(*arguments, columns=120)
    assert [line.split() for line in lines] == [header, row]
    assert len({len(line) for line in lines}) == 1


def test_each_block_comes_out_at_once_and_no_column_becomes_narrower(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    writer = TableWriter(format=None)
    writer.start({"name": str, "value": float, "flag": bool})
    assert capsys.readouterr().out == ""
    writer.write_rows([("a", 1.0, True), ("abcdefghij", -12.5, False)])
    assert capsys.readouterr().out == (
        "name             value  flag\na             1.000000     1\nabcdefghij  -12.500000     0\n"
    )
    writer.write_rows([("b", None, None), ("c" * 100, float("inf"), False)])
    assert capsys.readouterr().out == "b\nccccccccccc…         inf     0\n"
    writer.write_lines(b'{"name": "d", "value": 2.0, "flag": true}\n')
    assert capsys.readouterr().out == "d               2.000000     1\n"
