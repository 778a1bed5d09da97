"""What the tests of the commands share: a small checkpoint, and ways to run ``xlm``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.demo_files import write_demo_files
from tests.model.test_seq2seq import small_translator
from tests.training.runs import small_tokenizer
from xlm.cli import xlm

Invoke = Callable[..., Result]


@pytest.fixture(scope="session")
def demo_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ``demo.pth``, ``codes`` and ``vocab``."""
    return write_demo_files(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="session")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a random translation model of German and English, and its tokenizer."""
    directory, tokenizer = tmp_path_factory.mktemp("translator"), small_tokenizer()
    model = small_translator(vocab_size=tokenizer.vocab_size, max_position_embeddings=32, eos=1.5)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def invoke() -> Invoke:
    """Runs ``xlm`` with some arguments in this process."""

    def run(*arguments: str | Path, **options: Any) -> Result:
        return CliRunner().invoke(xlm, [str(argument) for argument in arguments], **options)

    return run
