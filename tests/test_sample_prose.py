"""``scripts/sample_prose.py``. Oracle: a small module whose texts are known."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / "scripts" / "sample_prose.py"
SOURCE = '''"""Module."""

# One comment
# of two lines.
x = 1  # behind code
y = 2  # noqa: E501


def f(value):
    """Return nothing."""
    raise InputError(f"no such value: {value}", where="x" + "y", found=value)
'''


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sample_prose", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_it_finds_every_text_with_its_line(script: ModuleType, tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "module.py").write_text(SOURCE, encoding="utf-8")
    prose, errors = script.collect(package)
    assert [(entry.line, entry.kind, entry.text) for entry in prose] == [
        (1, "docstring", "Module."),
        (3, "comment", "One comment of two lines."),
        (5, "comment", "behind code"),
        (10, "docstring", "Return nothing."),
    ]
    assert [(entry.path, entry.line, entry.text) for entry in errors] == [
        ("package/module.py", 11, "no such value: {…}\nwhere: xy")
    ]


def test_a_seed_decides_the_list(script: ModuleType) -> None:
    entries = script.collect(REPOSITORY / "xlm" / "_io")[0]
    drawn = script.sample(entries, 5, 1)
    assert drawn == script.sample(entries, 5, 1) != script.sample(entries, 5, 2)
    assert len(set(drawn)) == 5
    assert drawn == sorted(drawn)


def test_it_prints_as_many_as_asked_for() -> None:
    command = [sys.executable, str(SCRIPT), "1", "--prose", "7", "--messages", "3"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout
    assert printed.count("(docstring)\n") + printed.count("(comment)\n") == 7
    assert printed.count("(message)\n") == 3
