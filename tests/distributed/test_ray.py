"""``--engine ray`` and the callable classes on a real Ray cluster of this machine, with two CPUs.

Oracle: the bytes that the local command writes, even if a worker kills itself in the middle.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.conftest import Invoke
from tests.conftest import REPOSITORY
from tests.distributed.runs import joined, parts
from xlm.tokenizer.tokenizer import XLMTokenizer

pytest.importorskip("pyarrow")
if importlib.util.find_spec("ray") is None:
    pytest.skip("Ray is not installed", allow_module_level=True)


@dataclass(frozen=True)
class Done:
    """Results of the program on the cluster.

    Attributes:
        directory: The outputs.
        told: Further results.
        stdout: Standard output of the program.
        stderr: Standard error of the program.
    """

    directory: Path
    told: dict[str, Any]
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def opened(demo_files: Path) -> dict[str, str]:
    return {"model": str(demo_files / "demo.pth"), "codes": str(demo_files / "codes"), "lang": "en"}


@pytest.fixture(scope="module")
def command(opened: dict[str, str], corpus: list[Path]) -> list[str]:
    """A command whose inputs are relative paths."""
    model = [opened["model"], "--codes", opened["codes"], "--lang", "en"]
    return ["score", *model, *(path.name for path in corpus), "--read-ahead", "20"]


@pytest.fixture(scope="module")
def done(
    opened: dict[str, str], command: list[str], corpus: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Done:
    directory = tmp_path_factory.mktemp("ray")
    asked = {"directory": str(directory), "corpus": list(map(str, corpus)), "opened": opened, "command": command}
    run = subprocess.run(
        [sys.executable, "-m", "tests.distributed.on_ray", json.dumps(asked)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return Done(directory, json.loads((directory / "told.json").read_text()), run.stdout, run.stderr)


def test_scores_are_those_of_the_local_command(
    invoke: Invoke, command: list[str], corpus: list[Path], done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(corpus[0].parent)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker
    local = invoke(*command)
    torch.set_num_threads(threads)
    output = done.directory / "scores"
    assert local.exit_code == 0
    assert joined(output, header=True) == local.stdout_bytes
    assert len(parts(output)) == 7 + 4 + 1 + 3
    assert done.stdout == ""
    assert "255 rows in 15 files\n" in done.stderr
    assert "255 rows in 15 files, 14 of them from before" in done.stderr


def test_a_killed_worker_changes_nothing(
    invoke: Invoke, opened: dict[str, str], corpus: list[Path], done: Done
) -> None:
    output = done.directory / "ids"
    records = done.told["records"]
    assert (done.directory / "killed").exists()
    assert [(record["rows"], record["problems"]) for record in records] == [(10, 0)] * 5
    model = [opened["model"], "--codes", opened["codes"], "--lang", "en"]
    local = invoke("tokenize", *model, "--output", "ids", corpus[-1])
    assert joined(output, header=False) == local.stdout_bytes
    assert not (output / "_temporary").exists()


def test_the_classes_go_into_pipelines(opened: dict[str, str], corpus: list[Path], done: Done) -> None:
    tokenizer = XLMTokenizer.from_pretrained(opened["model"], codes=opened["codes"])
    texts = corpus[-1].read_text("utf-8").split("\n")
    assert done.told["ids"] == [tokenizer.encode(text, lang="en") for text in texts]
