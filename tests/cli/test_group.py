"""The command as a whole: help, start-up time, errors, warnings, interruptions.

Oracle: the contract of exit statuses (0 done, 1 failed, 2 wrong usage), and what well-behaved Unix commands do.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import click
import pytest

from tests.cli.conftest import Invoke
from xlm import __version__
from xlm.cli import COMMANDS, xlm
from xlm.errors import CheckpointError, WriteError, XLMWarning
from xlm.tokenizer.pipeline import PRESETS
from xlm.tokenizer.tokenizer import XLMTokenizer

XLM = [sys.executable, "-m", "xlm"]
SECONDS_FOR_HELP = 0.4


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(XLMTokenizer, "from_pretrained", fail)


def test_version_and_help(invoke: Invoke) -> None:
    assert invoke("--version").stdout == f"xlm, version {__version__}\n"
    result = invoke("--help")
    assert result.exit_code == 0
    listed = [line.split()[0] for line in result.stdout.partition("Commands:")[2].splitlines() if line.strip()]
    assert tuple(name for name in listed if name in COMMANDS) == COMMANDS


def test_help_names_every_preset(invoke: Invoke) -> None:
    help_text = " ".join(invoke("tokenize", "--help").stdout.split())
    assert all(preset in help_text for preset in PRESETS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_an_example(invoke: Invoke, name: str) -> None:
    result = invoke(name, "--help")
    assert result.exit_code == 0
    assert f"Usage: xlm {name} " in result.stdout
    example = result.stdout.replace("Examples:\n", "Example:\n").partition("Example:\n")[2].splitlines()
    assert example, "no example, or one that was rewrapped"
    assert f"xlm {name}" in example[0]


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_is_quick(arguments: list[str]) -> None:
    def seconds() -> float:
        # Of processor time: on an idle machine that is what one waits, and other tests beside this one do not count.
        before = os.times()
        subprocess.run([*XLM, *arguments], check=True, capture_output=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    # The least of up to ten: what disturbs a run only ever makes it longer.
    assert any(seconds() < SECONDS_FOR_HELP for _ in range(10))


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom xlm.cli import xlm\n"
        f"xlm({arguments!r}, standalone_mode=False)\n"
        "print({'torch', 'numpy', 'sacremoses', 'transformers'} & set(sys.modules), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert run.stderr == "set()\n"


def test_the_installed_command_is_the_module() -> None:
    installed = Path(sys.executable).with_name("xlm")
    if not installed.exists():
        pytest.skip("the package is not installed in this environment, only importable")
    output = [subprocess.run([*command, "--help"], capture_output=True, text=True) for command in ([installed], XLM)]
    assert output[0].stdout == output[1].stdout
    assert output[0].returncode == output[1].returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["--nonsense"],
        ["tokenize"],
        ["tokenize", "MODEL"],
        ["tokenize", "MODEL", "--lang", "en", "--output", "words"],
        ["tokenize", "MODEL", "--lang", "en", "no-such-file"],
        ["score", "MODEL", "--lang", "en", "--by", "letter"],
        ["score", "MODEL", "--lang", "en", "--format", "xml"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2(invoke: Invoke, arguments: list[str]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Usage: xlm")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["score", "--against", "transformers"]], ids=" ".join)
def test_bench_says_where_it_has_moved(invoke: Invoke, arguments: list[str]) -> None:
    result = invoke("bench", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert "python -m benchmarks" in result.stderr
    assert "bench" not in invoke("--help").stdout


def test_an_error_is_its_message(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    error = CheckpointError("the file is damaged", where="a.pth", remedy="fetch it again")
    fail_with(monkeypatch, error)
    result = invoke("tokenize", "MODEL", "--lang", "en", input="")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == "Error: The file is damaged\n  where: a.pth\n  remedy: fetch it again\n"
    assert invoke("--debug", "tokenize", "MODEL", "--lang", "en", input="").exception is error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied", "codes"), "Error: codes: Permission denied\n"),
        (OSError(28, "No space left on device"), "Error: No space left on device\n"),
        (OSError("something else"), "Error: something else\n"),
        (WriteError("cannot write", where="there"), "Error: Cannot write\n  where: there\n"),
    ],
)
def test_an_error_of_the_system_is_its_message(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, error: OSError, message: str
) -> None:
    fail_with(monkeypatch, error)
    result = invoke("tokenize", "MODEL", "--lang", "en", input="")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", message)


def test_a_bug_keeps_its_traceback(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("ours")
    fail_with(monkeypatch, error)
    assert invoke("tokenize", "MODEL", "--lang", "en", input="").exception is error


def test_debug_shows_the_traceback() -> None:
    command = [*XLM, "tokenize", "no-such-model", "--lang", "en"]
    plain = subprocess.run(command, input="", capture_output=True, text=True)
    debug = subprocess.run([*XLM, "--debug", *command[3:]], input="", capture_output=True, text=True)
    assert plain.returncode == debug.returncode == 1
    assert "Traceback" not in plain.stderr
    assert "no-such-model" in plain.stderr
    assert "Traceback" in debug.stderr


def test_a_warning_is_one_line_each(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(*_: Any, **__: Any) -> None:
        for _repetition in range(3):
            warnings.warn("the first\n  of two", XLMWarning, stacklevel=1)
        warnings.warn("the second", XLMWarning, stacklevel=1)

    monkeypatch.setattr(XLMTokenizer, "from_pretrained", warn)
    result = invoke("tokenize", "MODEL", "--lang", "en", input="")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "warning: the first of two\nwarning: the second\n"


def start(demo_files: Path) -> subprocess.Popen[bytes]:
    """``xlm tokenize``, waiting for text."""
    command = [*XLM, "tokenize", str(demo_files / "demo.pth"), "--codes", str(demo_files / "codes"), "--lang", "en"]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # What runs in the background of a script inherits that interrupts are ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def test_lines_come_out_one_by_one_and_ctrl_c_is_quiet(demo_files: Path) -> None:
    with start(demo_files) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"the dog\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"the</w> dog</w>\n"  # the input is still open
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
        assert process.wait() == 130
        assert errors.strip() == b""


def test_a_reader_that_leaves_is_no_error(demo_files: Path) -> None:
    with start(demo_files) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"the dog\n")
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write(b"the dog\n" * 2)
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["score", "--help"]], ids=" ".join)
def test_a_full_disk_is_one_message(arguments: list[str]) -> None:
    full = Path("/dev/full")
    if not full.is_char_device():
        pytest.skip("there is no /dev/full")
    with full.open("wb") as output:
        run = subprocess.run([*XLM, *arguments], stdout=output, stderr=subprocess.PIPE, text=True)
    assert (run.returncode, run.stderr) == (1, "Error: No space left on device\n")


@pytest.mark.parametrize(
    ("command", "closed"), [("tokenize", 0), ("tokenize", 1), ("tokenize", 2), ("score", 0), ("score", 1)]
)
def test_a_closed_stream_is_an_empty_one_that_takes_no_results(
    command: str, closed: int, demo_files: Path, tmp_path: Path
) -> None:
    arguments = [str(demo_files / "demo.pth"), "--codes", str(demo_files / "codes"), "--lang", "en"]
    output = tmp_path / "scores"
    if closed == 0:
        expected = "" if command == "tokenize" else "line\ttokens\tlogprob\tunknown\ttext\tstatus\n"
    else:
        (tmp_path / "text").write_text("the dog\n", encoding="utf-8")
        arguments += [str(tmp_path / "text"), *(["--output", str(output)] if command == "score" else [])]
        expected = "the</w> dog</w>\n" if closed == 2 else ""
    run = subprocess.run(
        [*XLM, command, *arguments], capture_output=True, text=True, preexec_fn=lambda: os.close(closed)
    )
    lost = (command, closed) == ("tokenize", 1)  # score writes to its --output
    assert (run.returncode, run.stdout) == (int(lost), expected), run.stderr
    assert "Traceback" not in run.stderr
    assert "where: standard output\n  found: closed" in run.stderr or not lost
    assert not output.exists() or len(output.read_text(encoding="utf-8").splitlines()) == 2


def test_files_are_all_there_before_a_closed_stream_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("the dog the dog\n", encoding="utf-8")
    arguments = ["--merges", "2", "--codes", "codes", "--vocab", "vocab", "text"]
    run = subprocess.run(
        [*XLM, "learn-bpe", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        preexec_fn=lambda: os.close(1),
    )
    assert run.returncode == 1
    assert "where: standard output" in run.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"text", "codes", "vocab"}


def test_text_is_utf8_whatever_the_locale_says(demo_files: Path) -> None:
    command = [*XLM, "tokenize", str(demo_files / "demo.pth"), "--codes", str(demo_files / "codes"), "--lang", "de"]
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    run = subprocess.run(command, input="schläft\n".encode(), capture_output=True, env=environment)
    assert run.stdout.decode() == "schläft</w>\n"
    assert run.returncode == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_sections_and_texts_of_one_form(invoke: Invoke, name: str) -> None:
    lines = invoke(name, "--help").stdout.splitlines()
    headings = [line.removesuffix(":") for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings[0] == "Arguments"
    assert headings[-1] == "Other"
    assert "Options" not in headings
    command = xlm.get_command(click.Context(xlm), name)
    assert command is not None
    for parameter in command.params:
        text = getattr(parameter, "help", None)
        assert text, parameter.name
        if hasattr(parameter, "section") or isinstance(parameter, click.Argument):
            assert not text.endswith("."), parameter.name
            assert ". " not in text, parameter.name


def test_commands_are_listed_by_task(invoke: Invoke) -> None:
    listed = invoke("--help").stdout.partition("Commands:")[2]
    headings = [line.strip() for line in listed.splitlines() if line.endswith(":")]
    assert headings == ["Convert and check models:", "Work on texts:", "Look at a model:", "Train models:"]
