"""The contents of a release. Oracle: the metadata of the package, and a build that is tried in an empty environment."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from xlm import __version__
from xlm.cli import COMMANDS


def test_the_version_stands_in_one_place() -> None:
    holders = [
        path.relative_to(REPOSITORY).as_posix()
        for path in [REPOSITORY / "pyproject.toml", *(REPOSITORY / "xlm").rglob("*.py")]
        if re.search(rf"""["']{re.escape(__version__)}["']""", path.read_text(encoding="utf-8"))
    ]
    assert holders == ["xlm/_version.py"]
    # Other programs read this file without running our code.
    assert f"\nversion: {__version__}\n" in (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")


def test_the_package_says_that_it_is_typed() -> None:
    assert (REPOSITORY / "xlm" / "py.typed").is_file()


def test_the_map_of_the_house_names_every_folder() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    folders = {path.parent.name for path in (REPOSITORY / "xlm").glob("*/__init__.py")}
    assert {name for name in folders if f"`xlm/{name}/`" not in text} == set()
    for link in re.findall(r"\]\(([^):]+)\)", text + (REPOSITORY / "SECURITY.md").read_text(encoding="utf-8")):
        assert (REPOSITORY / link).exists(), link


def test_the_map_of_the_house_names_every_script() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    names = {path.name for path in (REPOSITORY / "scripts").iterdir() if path.is_file()}
    assert {name for name in names if f"`{name}`" not in text} == set()
    rows = re.findall(r"^\| `([\w.]+)` \| ", text.partition("## Scripts")[2], flags=re.MULTILINE)
    assert rows
    assert set(rows) <= names


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str) -> None:
    environment = {**os.environ, "_XLM_COMPLETE": f"{shell}_source"}
    done = subprocess.run([sys.executable, "-m", "xlm"], capture_output=True, text=True, env=environment)
    assert "_XLM_COMPLETE=" in done.stdout, done.stderr
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=done.stdout, text=True, capture_output=True).stderr == ""


def test_completion_knows_the_commands() -> None:
    environment = {**os.environ, "_XLM_COMPLETE": "bash_complete", "COMP_WORDS": "xlm ", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-m", "xlm"], capture_output=True, text=True, env=environment)
    assert [line.removeprefix("plain,") for line in done.stdout.splitlines()] == list(COMMANDS)


@pytest.mark.slow
def test_it_builds_and_works_where_nothing_else_is(tmp_path: Path) -> None:
    if importlib.util.find_spec("build") is None:
        pytest.skip("python -m build is not installed")
    script = REPOSITORY / "scripts" / "smoke_release.py"
    done = subprocess.run(
        [sys.executable, script, "--beside", sys.executable, "--keep", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".gz", ".whl"]
