"""What the tests of evaluation share: a small model with its tokenizer."""

from __future__ import annotations

import pytest

from tests.demo_files import write_demo_files
from tests.scoring.small import make_model, open_tokenizer
from xlm.model.lm import XLMWithLMHeadModel
from xlm.tokenizer.tokenizer import XLMTokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> XLMTokenizer:
    """The demo's tokenizer."""
    return open_tokenizer(write_demo_files(tmp_path_factory.mktemp("demo")))


@pytest.fixture(scope="session")
def model(tokenizer: XLMTokenizer) -> XLMWithLMHeadModel:
    """A random model of German and English with 24 positions."""
    return make_model(tokenizer.vocab_size)
