"""Spans of tokens. Oracle: their definition, as properties of any text; and cases worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.tokenizer.fuzzing import check_spans
from tests.tokenizer.small import MERGES, VOCABULARY
from tests.tokenizer.texts import TEXTS
from xlm.tokenizer.tokenizer import XLMTokenizer

TOKENIZERS = {
    (preset, lowers): XLMTokenizer(VOCABULARY, MERGES, preset=preset, do_lowercase_and_remove_accent=lowers)
    for preset in ("transformers", "transformers-v4", "original")
    for lowers in (True, False)
}


@settings(max_examples=500, deadline=None)
@example(text="İ Σ ΑΣ ﬁ ǅ e\u0301 \u0301x", lang="de")
@example(text='\u200bx "y." z\u200b', lang="de")
@example(text="a\nb.\n\u0301", lang="en")
@given(text=TEXTS, lang=st.sampled_from([None, "en", "de", "fr", "ro", "fi"]))
def test_spans_cover_every_character_but_spaces_in_order(text: str, lang: str | None) -> None:
    for tokenizer in TOKENIZERS.values():
        if lang is not None or tokenizer.preset != "original":
            check_spans(tokenizer, text, lang)


def parts(tokenizer: XLMTokenizer, text: str, lang: str) -> list[str]:
    return [text[start:end] for start, end in tokenizer(text, lang=lang, return_offsets=True)["offsets"][1:-1]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the dog", ["the", "dog"]),
        ("  the   dog ", ["the", "dog"]),
        ("dog…", ["dog", "…"]),
        ("dog...", ["dog", "..."]),
        ("the，the", ["the", "，", "the"]),
        ("thé", ["thé"]),
        ("the\u0301 dog", ["the\u0301", "dog"]),
        ("the\u200b dog", ["the\u200b", "dog"]),
    ],
)
def test_cases_worked_out_by_hand(text: str, expected: list[str]) -> None:
    tokenizer = XLMTokenizer(VOCABULARY, MERGES)
    found: list[str] = []
    ended = True
    pieces = tokenizer.tokenize(text, lang="en")
    for piece, part in zip(pieces, parts(tokenizer, text, "en"), strict=True):
        # the pieces of one word together: the small vocabulary splits some
        if not ended:
            found[-1] = found[-1] if found[-1].endswith(part) else found[-1] + part
        else:
            found.append(part)
        ended = piece.endswith("</w>")
    assert found == expected


def test_exchanged_signs_share_their_span() -> None:
    tokenizer = TOKENIZERS["original", False]
    text = 'the dog." the'
    assert parts(tokenizer, text, "de")[-3:] == ['."', '."', "the"]


def test_several_texts_and_words() -> None:
    tokenizer = XLMTokenizer(VOCABULARY, MERGES)
    encoding = tokenizer(["the dog's", ""], return_offsets=True, padding=True)
    assert encoding["offsets"][1] == [(0, 0), (0, 0)]
    assert set(encoding["word_ids"][0]) == {None, 0, 1}


def test_real_text(reference: Path) -> None:
    published = XLMTokenizer.from_pretrained(reference / "published/xlm-clm-ende-1024")
    original = XLMTokenizer.from_pretrained(reference / "published/xlm-clm-ende-1024", preset="original")
    for name in ("newstest2014.de", "udhr.hi", "blns", "tweeteval-emotion-train.en"):
        lines = (reference / f"tokenizer/text/{name}.txt").read_bytes().decode("utf-8").split("\n")[:100]
        for line in lines:
            check_spans(published, line, None)
            check_spans(original, line, "de")
