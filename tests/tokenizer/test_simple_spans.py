"""Spans of simple texts, which are read off the pieces. Oracle: the specification, which tracks every character."""

from __future__ import annotations

import random
from functools import cache

import pytest

from xlm.tokenizer.tokenizer import XLMTokenizer

WORDS = ["Mr", "No", "3.5", "1,000", "e.g", "z.B", "a-b", "it's", "don't", "U.S", "1st", "am", "II", "x,y", "l'homme"]
WORDS += [
    "10:30",
    "and/or",
    "\u00fcber",
    "\u00c4",
    "a.b.c",
    "Nr",
    "Jan",
    "the",
    "Wikipedia",
    "xylophone",
    "dogs'",
    "`a",
]
STARTS, SIGNS, ENDS = (
    ["", "(", '"', "'", "((", "$"],
    ["", ".", ",", ":", "?", "!", ";", "..", " ,"],
    ["", '"', "'", ")"],
)


@cache
def tokenizer(preset: str, casefolds: bool) -> XLMTokenizer:
    return XLMTokenizer.from_pretrained("xlm-clm-ende-small", preset=preset, do_lowercase_and_remove_accent=casefolds)


@pytest.mark.parametrize("casefolds", [False, True])
@pytest.mark.parametrize("preset", ["original", "transformers", "transformers-v4"])
@pytest.mark.parametrize("lang", ["de", "en"])
def test_spans_are_those_of_the_specification(lang: str, preset: str, casefolds: bool) -> None:
    choose = random.Random(f"{lang} {preset} {casefolds}")
    pipeline = tokenizer(preset, casefolds).pipeline
    for _ in range(300):
        chosen = [
            choose.choice(STARTS[: choose.choice([4, 6])])
            + choose.choice(WORDS)
            + choose.choice(SIGNS[: choose.choice([7, 9])])
            + choose.choice(ENDS)
            + choose.choice(["", "", ".", ","])
            + choose.choice(["", " ", " -"])
            for _ in range(choose.randint(0, 5))
        ]
        text = " ".join(chosen)
        assert tokenizer(preset, casefolds).spans(text, lang=lang) == [token.span for token in pipeline(text, lang)], (
            text
        )
