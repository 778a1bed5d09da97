"""Lower case without accents, as the original's models of 15 and more languages were trained."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def lowercase_and_remove_accent(words: Sequence[str]) -> list[str]:
    """Returns the words in lower case and without combining marks; a word of nothing but marks is dropped.

    Source: the original, tools/lowercase_and_remove_accent.py.
    """
    return [folded for word in words if (folded := fold(word))]


def fold(word: str) -> str:
    """Returns one word in lower case and without combining marks."""
    if word.isascii():
        return word.lower()
    decomposed = unicodedata.normalize("NFD", word.lower())
    return "".join(character for character in decomposed if unicodedata.category(character) != "Mn")


def fold_all(words: Sequence[str]) -> list[str]:
    r"""Returns ``fold`` of each word, at once.

    Args:
        words: Without a ``\n``, which divides them here: no rule of Unicode reaches across it.
    """
    text = "\n".join(words).lower()
    if not text.isascii():
        text = unicodedata.normalize("NFD", text)
        for mark in {character for character in set(text) if unicodedata.category(character) == "Mn"}:
            text = text.replace(mark, "")
    return text.split("\n") if words else []


def fold_characters(word: str) -> list[tuple[str, int]]:
    """Returns the characters of ``fold(word)``, each with the place in the word of the character it came from."""
    # A capital sigma becomes one of two letters by its neighbours; the number of letters is always the same.
    places = [place for place, character in enumerate(word) for _ in character.lower()]
    decomposed = [
        (part, place)
        for character, place in zip(word.lower(), places, strict=True)
        for part in unicodedata.normalize("NFD", character)
    ]
    # Canonical order moves marks only, and the marks of class Mn, which are nearly all, are dropped.
    kept = [place for part, place in decomposed if unicodedata.category(part) != "Mn"]
    return list(zip(fold(word), kept, strict=True))
