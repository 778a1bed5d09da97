"""Fixtures of the tests of the tokenizer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.tokenizer.small import MERGES, VOCABULARY
from xlm.tokenizer.tokenizer import XLMTokenizer


@pytest.fixture(scope="module", params=[True, False], ids=["lower-cased", "cased"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[XLMTokenizer, Any]:
    """Our tokenizer and that of transformers, on the same small vocabulary; its files are not written by ours."""
    transformers = pytest.importorskip("transformers")
    directory = tmp_path_factory.mktemp("small")
    (directory / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(VOCABULARY.tokens)}))
    (directory / "merges.txt").write_text("".join(f"{left} {right}\n" for left, right in MERGES), encoding="utf-8")
    peer = transformers.XLMTokenizer(
        str(directory / "vocab.json"),
        str(directory / "merges.txt"),
        do_lowercase_and_remove_accent=request.param,
        model_max_length=40,
    )
    return XLMTokenizer(VOCABULARY, MERGES, do_lowercase_and_remove_accent=request.param, model_max_length=40), peer
