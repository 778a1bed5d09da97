"""What the tests of the benchmarks share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.demo_files import write_demo_files
from xlm.checkpoint.convert import convert


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its tokenizer, and 30 texts beside it in ``lines``, some of them empty."""
    files = write_demo_files(tmp_path_factory.mktemp("demo"))
    directory = files / "demo"
    convert(files / "demo.pth", directory, codes=files / "codes")
    text = "A small house.\n\nThe house is old, and the old man is small!\n" * 10
    (directory / "lines").write_text(text, encoding="utf-8")
    return directory
