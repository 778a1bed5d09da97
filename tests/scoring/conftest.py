"""What the tests of scoring share: the demo's files and tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.demo_files import write_demo_files
from tests.scoring.small import open_tokenizer
from xlm.tokenizer.tokenizer import XLMTokenizer


@pytest.fixture(scope="session")
def demo_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ``demo.pth``, ``codes`` and ``vocab``."""
    return write_demo_files(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="session")
def tokenizer(demo_files: Path) -> XLMTokenizer:
    """The demo's tokenizer."""
    return open_tokenizer(demo_files)
