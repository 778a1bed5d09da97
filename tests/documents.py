"""Run the code blocks of the project's pages in order, and collect their output.

A page's ``bash`` and ``python`` blocks run in one directory of small files. xlm commands run in this process, because
importing torch takes longer than most of them. ``<!-- not run: WHY -->`` marks a block that does not run, and
``<!-- runs with: A, B -->`` one that runs if these libraries are installed. A ``text`` block under ``<!-- output -->``
holds the output of the block above it; ``scripts/docs --outputs`` writes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import importlib.util
import io
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import tempfile
import termios
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from tests.conftest import REPOSITORY
from tests.demo_files import write_demo_files
from xlm import XLMWithLMHeadModel, convert
from xlm.cli import xlm

README = REPOSITORY / "README.md"
PAGES = sorted((REPOSITORY / "docs").rglob("*.md"))
RUN = ("bash", "python")
NOT_CODE = ("text", "json")
# Width of the terminal whose output the pages show: about what a code block of the built pages holds.
COLUMNS = 80
# Commands that no page runs, and why.
ELSEWHERE = {
    "pip ": "changes the environment",
    "scripts/": "makes an environment of its own, or takes minutes; has tests of its own",
    "python scripts/": "takes minutes; has tests of its own",
    "python -m benchmarks": "takes minutes; tests/benchmarks",
    "torchrun ": "several processes; tests/training/test_processes.py",
}
# Added to the training commands of the pages: two steps of a small batch.
BRIEFLY = (
    " --set batch.batch_size=2 --set batch.seq_len=16"
    " --set run.max_steps=2 --set run.evaluate_every=2 --set run.save_every=2"
)
BUNDLED = "xlm-clm-ende-small"
_BLOCK = re.compile(
    r"(?:^<!-- (?P<note>[^\n]*) -->\n\n?)?^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: The word after the opening fence.
        code: The contents.
        note: The HTML comment above the block, or an empty string.
        start: Offset of the code in the page.
        end: Offset of the end of the code.
    """

    language: str
    code: str
    note: str
    start: int
    end: int

    @property
    def runs(self) -> bool:
        """Whether the block runs."""
        kind, _, rest = self.note.partition(": ")
        missing = kind == "runs with" and None in map(importlib.util.find_spec, rest.split(", "))
        return self.language in RUN and kind != "not run" and not missing


def blocks_of(text: str) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    return [
        Block(
            language=match["language"],
            code=match["code"],
            note=match["note"] or "",
            start=match.start("code"),
            end=match.end("code"),
        )
        for match in _BLOCK.finditer(text)
    ]


def commands_of(block: Block) -> list[str]:
    """Return the commands of a bash block, without comments and without the commands of ``ELSEWHERE``."""
    lines = block.code.replace("\\\n", " ").splitlines()
    commands = [re.split(r"(?:^|\s+)#\s", line)[0].strip() for line in lines]
    return [command for command in commands if command and not command.startswith(tuple(ELSEWHERE))]


def prepare(directory: Path, *, bundled: Path | None = None) -> None:
    """Create small versions of the files that the pages name, and tiny models under the published names.

    Args:
        directory: An existing directory for the files.
        bundled: A model directory to link under the bundled model's name, instead of a tiny model.
    """
    write_demo_files(directory, as_original=True)
    (directory / "demo.pth").rename(directory / "best-valid_clm_ppl.pth")
    (directory / "codes").rename(directory / "codes_ende")
    for name in ("news.en.txt", "prompts.txt", "valid.en", "train.en", "en.txt", "dev.en.txt"):
        (directory / name).write_text("The small dog is sleeping .\n" * 20, encoding="utf-8")
    for name in ("valid.de", "train.de", "de.txt", "dev.de.txt"):
        (directory / name).write_text("Der kleine Hund schläft .\n" * 20, encoding="utf-8")
    (directory / "news.de.gz").write_bytes(gzip.compress("Der kleine Hund schläft .\n".encode()))
    for name in ("xlm-clm-ende-1024", *([] if bundled else [BUNDLED])):
        convert(directory / "best-valid_clm_ppl.pth", directory / name, codes=directory / "codes_ende")
    if bundled:
        (directory / BUNDLED).symlink_to(bundled.resolve(), target_is_directory=True)
    model = XLMWithLMHeadModel.from_pretrained(directory / "best-valid_clm_ppl.pth")
    ids = torch.arange(14, 24)[None]
    with torch.inference_mode():
        logits = model(ids, langs=1).logits
    tensors = {"input_ids": ids, "langs": torch.ones_like(ids), "logits": logits}
    save_file(tensors, directory / "plain.reference.safetensors")


def run_page(text: str, *, terminal: bool = False) -> dict[Block, str]:
    """Run the blocks of a page in the current directory and return the output of each.

    Args:
        text: The page.
        terminal: Whether the commands whose output the page shows write to a terminal, as for a reader. Each of them
            then runs in a process of its own.

    Raises:
        AssertionError: A command did not end with status 0.
        Exception: Any error of a python block.
    """
    printed: dict[Block, str] = {}
    names: dict[str, Any] = {"__name__": "__main__"}
    blocks = blocks_of(text)
    for i, block in enumerate(blocks):
        if not block.runs:
            continue
        if block.language == "bash":
            shown = terminal and any(following.note == "output" for following in blocks[i + 1 : i + 2])
            printed[block] = "".join(_run(command, terminal=shown) for command in commands_of(block))
            continue
        output = io.StringIO()
        with contextlib.redirect_stdout(output), warnings.catch_warnings():
            warnings.simplefilter("default")  # pytest turns warnings into errors
            exec(compile(block.code, "page", "exec"), names)
        printed[block] = output.getvalue()
    return printed


def _run(command: str, *, terminal: bool) -> str:
    """Run a pipeline of commands and return its output."""
    if command.startswith("xlm train "):
        command += BRIEFLY
    data = b""
    parts = command.split(" | ")
    for i, part in enumerate(parts):
        part, _, target = part.partition(" > ")
        if part.startswith("xlm ") and terminal and not target and i == len(parts) - 1:
            data = run_in_terminal([sys.executable, "-m", "xlm", *shlex.split(part)[1:]], data)
        elif part.startswith("xlm "):
            with warnings.catch_warnings():
                warnings.simplefilter("default")
                result = CliRunner().invoke(xlm, shlex.split(part)[1:], input=data, prog_name="xlm")
            assert result.exit_code == 0, f"{command}\n{result.output}"
            data = result.stdout_bytes
        else:
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            done = subprocess.run(
                ["bash", "-c", part], input=data, capture_output=True, check=False, env={**os.environ, "PATH": path}
            )
            assert done.returncode == 0, f"{command}\n{done.stderr.decode()}"
            data = done.stdout
        if target:
            Path(target.strip()).write_bytes(data)
            data = b""
    return data.decode()


def run_in_terminal(arguments: list[str], data: bytes) -> bytes:
    """Run a program whose standard output is a terminal of ``COLUMNS`` columns, and return the output.

    Args:
        arguments: The program and its arguments.
        data: Standard input, which is not a terminal.

    Raises:
        AssertionError: The program did not end with status 0.
    """
    reader, writer = pty.openpty()
    settings = termios.tcgetattr(writer)
    settings[1] &= ~termios.OPOST  # no carriage return before a line feed
    termios.tcsetattr(writer, termios.TCSANOW, settings)
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": str(COLUMNS), "NO_COLOR": "1"}
    output = b""
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stderr:
        stdin.write(data)
        stdin.seek(0)
        process = subprocess.Popen(arguments, stdin=stdin, stdout=writer, stderr=stderr, env=environment)
        os.close(writer)
        with contextlib.suppress(OSError):  # Linux reports the end of the output as an error
            while chunk := os.read(reader, 65_536):
                output += chunk
        os.close(reader)
        status = process.wait()
        stderr.seek(0)
        assert status == 0, f"{shlex.join(arguments)}\n{stderr.read().decode()}"
    return output


def with_outputs(text: str, printed: dict[Block, str]) -> str:
    """Return the page with the printed output in its ``text`` blocks under ``<!-- output -->``."""
    last, pieces, end = "", [], 0
    for block in blocks_of(text):
        if block in printed:
            last = printed[block]
        elif block.note == "output":
            pieces += [text[end : block.start], last.rstrip() + "\n"]
            end = block.end
    return "".join([*pieces, text[end:]])
