"""The preset ``original``. Oracle: the original's own pipeline, four Perl scripts and fastBPE, as recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from xlm.tokenizer.tokenizer import XLMTokenizer


@pytest.fixture(scope="module")
def tokenizer(reference: Path) -> XLMTokenizer:
    published = reference / "published"
    return XLMTokenizer.from_codes(published / "codes_ende", published / "vocab_ende")


def in_original_notation(pieces: list[str]) -> str:
    """``@@`` on all pieces of a word but the last."""
    return " ".join(piece[:-4] if piece.endswith("</w>") else f"{piece}@@" for piece in pieces)


def test_zero_differing_lines(reference: Path, tokenizer: XLMTokenizer) -> None:
    files = sorted((reference / "tokenizer/original").glob("*.bpe"))
    assert len(files) == 16
    compared, differing = 0, []
    for recorded in files:
        lang = recorded.stem.rpartition(".")[2]
        texts = (reference / f"tokenizer/text/{recorded.stem}.txt").read_bytes().decode("utf-8").split("\n")[:-1]
        lines = recorded.read_bytes().decode("utf-8").split("\n")[:-1]
        for text, line in zip(texts, lines, strict=True):
            pieces = tokenizer.tokenize(text, lang)
            # tokenizer.perl leaves a space at the end of some lines
            expected = line.rstrip(" ")
            compared += 1
            ids = tokenizer.convert_tokens_to_ids(pieces)
            if in_original_notation(pieces) != expected or tokenizer.encode(text, lang=lang) != [1, *ids, 1]:
                differing.append(f"{recorded.stem}: {text!r}")
    assert compared == 38_964
    assert differing == []
