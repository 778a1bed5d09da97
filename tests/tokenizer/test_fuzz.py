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


def pair(folder: Path, *, cased: bool) -> tuple[XLMTokenizer, Any]:
    """Returns this library's tokenizer and that of transformers, with the small vocabulary."""
    transformers: Any = pytest.importorskip("transformers")
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(VOCABULARY.tokens)}))
    (folder / "merges.txt").write_text("".join(f"{left} {right}\n" for left, right in MERGES), encoding="utf-8")
    peer = transformers.XLMTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), do_lowercase_and_remove_accent=not cased
    )
    return XLMTokenizer(VOCABULARY, MERGES, do_lowercase_and_remove_accent=not cased), peer


def random_texts(part: int) -> fuzzing.Texts:
    folder = Path(os.environ.get("XLM_REFERENCE", "../shared")) / "tokenizer/text"
    lines = [line for path in sorted(folder.glob("*.txt")) for line in path.read_text("utf-8").split("\n")[part::97]]
    return fuzzing.Texts(part, lines)


@pytest.mark.parametrize("cased", [False, True])
@pytest.mark.parametrize("part", range(PARTS))
def test_random_texts(tmp_path: Path, part: int, cased: bool) -> None:
    ours, peer = pair(tmp_path, cased=cased)
    texts = random_texts(part)
    differing = [fuzzing.check(ours, peer, texts) for _ in range(EXAMPLES // PARTS // 2)]
    assert list(filter(None, differing)) == []


@pytest.mark.parametrize("cased", [False, True])
def test_many_random_texts_at_once(tmp_path: Path, cased: bool) -> None:
    ours, peer = pair(tmp_path, cased=cased)
    source = random_texts(PARTS)
    for _ in range(3):  # later ones find what is remembered of those before
        texts = [source.text() for _ in range(400)]
        found = ours.encode_batch(texts)
        differing = [text for text, ids in zip(texts, found, strict=True) if ids != peer.encode(text)]
        assert differing == []
