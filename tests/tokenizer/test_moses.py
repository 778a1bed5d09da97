"""The Moses steps. Oracle: the functions of transformers that do the same, on every character and on random texts."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlm.errors import LanguageError
from xlm.tokenizer import moses

CHARACTERS = [chr(code) for code in range(sys.maxunicode + 1)]


@pytest.fixture(scope="module")
def peer() -> Any:
    return pytest.importorskip("transformers.models.xlm.tokenization_xlm")


# In one piece a character could change how its neighbours are treated: a letter between keeps them apart.
ALL_CHARACTERS = "x".join(CHARACTERS)


def test_replace_unicode_punctuation_on_every_character(peer: Any) -> None:
    assert moses.replace_unicode_punctuation(ALL_CHARACTERS) == peer.replace_unicode_punct(ALL_CHARACTERS)
    assert moses.replace_unicode_punctuation("。\u3000 a．b１") == ". a. b1"


@given(text=st.text("。．，…”１ \u3000\n\u00a0.a"))
def test_replace_unicode_punctuation_on_sequences(peer: Any, text: str) -> None:
    assert moses.replace_unicode_punctuation(text) == peer.replace_unicode_punct(text)


def test_remove_non_printing_char_on_every_character(peer: Any) -> None:
    assert moses.remove_non_printing_char(ALL_CHARACTERS) == peer.remove_non_printing_char(ALL_CHARACTERS)
    assert [moses.remove_non_printing_char(c) for c in "a\t\n\x00\u200b\ud800\u00a0 "] == [
        "a",
        *[""] * 5,
        "\u00a0",
        " ",
    ]


def test_romanian_on_every_character(peer: Any) -> None:
    ours = moses.remove_diacritics(moses.normalise_romanian(ALL_CHARACTERS))
    assert ours == peer.romanian_preprocessing(ALL_CHARACTERS)
    assert moses.remove_diacritics(moses.normalise_romanian("Ţară şi înțelepciune")) == "Tara si intelepciune"


def test_lowercase_and_remove_accent_on_every_character(peer: Any) -> None:
    words = [character for character in CHARACTERS if not character.isspace()]
    ours = moses.lowercase_and_remove_accent(words)
    assert ours == [word for word in peer.lowercase_and_remove_accent(words) if word]
    assert moses.lowercase_and_remove_accent(["ÄÉ", "\u0301", "ß"]) == ["ae", "ß"]


@given(words=st.lists(st.text(st.sampled_from("ΣσΑa'\u0301\u0345İıǅK.:Éß"), min_size=1)))
def test_lowercase_and_remove_accent_on_sequences(peer: Any, words: list[str]) -> None:
    ours = moses.lowercase_and_remove_accent(words)
    assert ours == [word for word in peer.lowercase_and_remove_accent(words) if word]


def test_romanian_loses_its_diacritics_and_other_languages_do_not() -> None:
    for language, words in {"ro": ["Tara", "si", "apa"], "de": ["Ţara", "şi", "apă"]}.items():
        assert moses.split_words("Ţara şi apă", language, do_lowercase_and_remove_accent=False) == words


def test_no_word_holds_whitespace() -> None:
    # What BPE relies on; transformers joins and splits at spaces around it.
    words = moses.split_words(" ".join(CHARACTERS), "en", do_lowercase_and_remove_accent=False)
    for some in (words, moses.lowercase_and_remove_accent(words)):
        assert len(some) > 100_000
        assert not re.search(r"\s", "".join(some))
        assert all(some)


@pytest.mark.parametrize("language", ["zh", "ja", "th"])
def test_languages_that_moses_cannot_divide_are_refused(language: str) -> None:
    with pytest.raises(LanguageError, match=language):
        moses.split_words("text", language, do_lowercase_and_remove_accent=False)
