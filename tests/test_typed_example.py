"""Types as a program outside the package sees them.

Oracle: mypy and pyright, both strict, on ``tests/typed/example.py``; and a program with mistakes, which they must find.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

EXAMPLE = REPOSITORY / "tests" / "typed" / "example.py"
MISTAKES = {
    "model(ids, lang=1)": "overload",
    "model(ids, labels='x')": "labels|overload",
    "model(ids).logit": "logit",
    "model(ids).loss.shape": "None",
    "layer: int = model.transformer.layers[0]": "Layer",
    "query: int = model.transformer.layers[0].attention.query": "Linear",
}


def _program(directory: Path, text: str) -> Path:
    """Write a program outside the repository."""
    path = directory / "program.py"
    path.write_text(text, "utf-8")
    return path


def _mistakes() -> str:
    lines = ["import torch", "from xlm import XLMConfig, XLMWithLMHeadModel"]
    lines += ["model = XLMWithLMHeadModel(XLMConfig(vocab_size=20, emb_dim=4, n_layers=1, n_heads=1))"]
    return "\n".join([*lines, "ids = torch.tensor([[1]])", *MISTAKES]) + "\n"


def _check(command: list[str], directory: Path) -> tuple[int, str]:
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "MYPYPATH": str(REPOSITORY), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        timeout=600,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).decode()


def _mypy(path: Path) -> tuple[int, str]:
    # The cache of the checks of the repository does not fit, since its settings differ.
    options = [
        "--strict",
        "--python-version",
        "3.11",
        f"--cache-dir={path.parent / 'cache'}",
        "--follow-imports=silent",
    ]
    return _check([sys.executable, "-m", "mypy", *options, str(path)], path.parent)


def _pyright(path: Path) -> tuple[int, str]:
    settings = {"typeCheckingMode": "strict", "pythonVersion": "3.11", "extraPaths": [str(REPOSITORY)]}
    (path.parent / "pyrightconfig.json").write_text(json.dumps(settings), "utf-8")
    return _check([sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(path)], path.parent)


@pytest.mark.slow
def test_mypy(tmp_path: Path) -> None:
    code, text = _mypy(_program(tmp_path, EXAMPLE.read_text("utf-8")))
    assert code == 0, text
    _, text = _mypy(_program(tmp_path, _mistakes()))
    _assert_found(text)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("pyright") is None, reason="pyright is not installed")
def test_pyright(tmp_path: Path) -> None:
    code, text = _pyright(_program(tmp_path, EXAMPLE.read_text("utf-8")))
    assert code == 0, text
    _, text = _pyright(_program(tmp_path, _mistakes()))
    _assert_found(text)


def _assert_found(text: str) -> None:
    errors = [line for line in text.splitlines() if ": error" in line or "- error" in line]
    for number, (line, word) in enumerate(MISTAKES.items(), start=5):
        found = [error for error in errors if f"program.py:{number}:" in error]
        assert found, (line, text)
        assert re.search(word, "".join(found)), (word, found)
