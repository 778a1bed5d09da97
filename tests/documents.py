"""The project's pages: their code blocks, run in order, and what those print.

A page's ``bash`` and ``python`` blocks are run in one directory of small files. Commands of xlm run in this process,
since importing torch takes longer than most of them. A block that is not run stands under ``<!-- not run: WHY -->``; a
``text`` block under ``<!-- output -->`` holds what the block above it prints, and ``scripts/docs --outputs`` writes it.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import re
import shlex
import subprocess
import sys
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
# Commands that are no test's business, wherever they stand, and why.
ELSEWHERE = {
    "pip ": "changes the environment",
    "scripts/": "makes an environment of its own, or takes minutes; has tests of its own",
    "python scripts/": "takes minutes; has tests of its own",
    "python -m benchmarks": "takes minutes; tests/benchmarks",
    "torchrun ": "several processes; tests/training/test_processes.py",
}
# The pages train in earnest; here a few updates of a smaller batch are enough.
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
        language: What stands behind the fence.
        code: What is inside.
        note: The comment above it; empty where there is none.
        start: Where the code begins in the page.
        end: Where it ends.
    """

    language: str
    code: str
    note: str
    start: int
    end: int

    @property
    def runs(self) -> bool:
        """Whether it is code that is to be run."""
        return self.language in RUN and not self.note.startswith("not run: ")


def blocks_of(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
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
    """The commands of a bash block, without comments, those that are tested elsewhere left out."""
    lines = block.code.replace("\\\n", " ").splitlines()
    commands = [re.split(r"(?:^|\s+)#\s", line)[0].strip() for line in lines]
    return [command for command in commands if command and not command.startswith(tuple(ELSEWHERE))]


def prepare(directory: Path, *, bundled: Path | None = None) -> None:
    """Makes the files that the pages name, small, and models by the published names.

    Args:
        directory: Where.
        bundled: Stands there by the bundled model's name, instead of a tiny one.
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


def run_page(text: str) -> dict[Block, str]:
    """Runs the blocks of a page in the current directory and returns what each printed.

    Raises:
        AssertionError: A command did not end with 0.
        Exception: Whatever a python block raises.
    """
    printed: dict[Block, str] = {}
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks_of(text):
        if not block.runs:
            continue
        if block.language == "bash":
            printed[block] = "".join(_run(command) for command in commands_of(block))
            continue
        output = io.StringIO()
        with contextlib.redirect_stdout(output), warnings.catch_warnings():
            warnings.simplefilter("default")  # as they are to a reader, not errors as in the tests
            exec(compile(block.code, "page", "exec"), names)
        printed[block] = output.getvalue()
    return printed


def _run(command: str) -> str:
    if command.startswith("xlm train "):
        command += BRIEFLY
    data = b""
    for part in command.split(" | "):
        part, _, target = part.partition(" > ")
        if part.startswith("xlm "):
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


def with_outputs(text: str, printed: dict[Block, str]) -> str:
    """The page with what its blocks printed in the ``text`` blocks under ``<!-- output -->``."""
    last, pieces, end = "", [], 0
    for block in blocks_of(text):
        if block in printed:
            last = printed[block]
        elif block.note == "output":
            pieces += [text[end : block.start], last.rstrip() + "\n"]
            end = block.end
    return "".join([*pieces, text[end:]])
