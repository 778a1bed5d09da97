"""The README's own commands, run as printed. Oracle: exit status 0, and what they leave."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import REPOSITORY
from tests.demo_files import write_demo_files
from xlm import XLMWithLMHeadModel

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
# The README trains in earnest; here a few updates of a smaller batch are enough.
BRIEFLY = (
    " --set batch.rows=2 --set batch.width=16 --set run.updates=2 --set run.evaluate_every=2 --set run.save_every=2"
)
COMMANDS = [
    line.partition("  #")[0].strip()
    for language, block in BLOCKS
    if language == "bash"
    for line in block.splitlines()
    if re.search(r"(^|\| )xlm ", line) and "xlm bench" not in line
]


def prepare(directory: Path) -> None:
    """The files that the README's commands name, small."""
    write_demo_files(directory)
    (directory / "demo.pth").rename(directory / "best-valid_clm_ppl.pth")
    (directory / "codes").rename(directory / "codes_ende")
    for name in ("news.en.txt", "prompts.txt", "valid.en", "train.en"):
        (directory / name).write_text("The small dog is sleeping .\n" * 20, encoding="utf-8")
    for name in ("valid.de", "train.de"):
        (directory / name).write_text("Der kleine Hund schläft .\n" * 20, encoding="utf-8")
    (directory / "news.de.gz").write_bytes(gzip.compress("Der kleine Hund schläft .\n".encode()))
    model = XLMWithLMHeadModel.from_pretrained(directory / "best-valid_clm_ppl.pth")
    ids = torch.arange(14, 24)[None]
    with torch.inference_mode():
        logits = model(ids, langs=1).logits
    tensors = {"input_ids": ids, "langs": torch.ones_like(ids), "logits": logits}
    save_file(tensors, directory / "plain.reference.safetensors")


def environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.skipif(sys.platform == "win32", reason="the README's commands are for a POSIX shell")
@pytest.mark.skipif(not Path(sys.executable).with_name("xlm").exists(), reason="the package is not installed")
def test_commands_and_the_python_after_them(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    prepare(tmp_path)
    assert len(COMMANDS) >= 6
    for command in COMMANDS:
        done = subprocess.run(
            ["bash", "-c", command + BRIEFLY * command.startswith("xlm train ")],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert (tmp_path / "again.pth").is_file()
    snippets = [block for language, block in BLOCKS if language == "python" and "my-model" in block]
    assert len(snippets) == 2
    for snippet in snippets:
        done = subprocess.run(
            [sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_links_inside_the_repository() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (REPOSITORY / target).exists(), target
    for name in ("CITATION.cff", "constraints.txt", "xlm/parity/report.py"):
        assert name in README
        assert (REPOSITORY / name).is_file()
