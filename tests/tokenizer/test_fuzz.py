"""20,000 random texts at every run. Oracle: live transformers, on the published vocabulary where it is at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.tokenizer import fuzzing
from tests.tokenizer.small import MERGES, VOCABULARY
from xlm.tokenizer.tokenizer import XLMTokenizer

PARTS = 4
EXAMPLES = 20_000


@pytest.mark.parametrize("cased", [False, True])
@pytest.mark.parametrize("part", range(PARTS))
def test_random_texts(tmp_path: Path, part: int, cased: bool) -> None:
    transformers: Any = pytest.importorskip("transformers")
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(VOCABULARY.tokens)}))
    (tmp_path / "merges.txt").write_text("".join(f"{left} {right}\n" for left, right in MERGES), encoding="utf-8")
    peer = transformers.XLMTokenizer(
        str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"), do_lowercase_and_remove_accent=not cased
    )
    ours = XLMTokenizer(VOCABULARY, MERGES, do_lowercase_and_remove_accent=not cased)
    folder = Path(os.environ.get("XLM_REFERENCE", "../shared")) / "tokenizer/text"
    lines = [line for path in sorted(folder.glob("*.txt")) for line in path.read_text("utf-8").split("\n")[part::97]]
    texts = fuzzing.Texts(part, lines)
    differing = [fuzzing.check(ours, peer, texts) for _ in range(EXAMPLES // PARTS // 2)]
    assert list(filter(None, differing)) == []
