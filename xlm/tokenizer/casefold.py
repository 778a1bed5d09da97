"""Lower case without accents, as the original's models of 15 and more languages were trained.

Source: the original's ``tools/lowercase_and_remove_accent.py``.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from xlm.tokenizer.alignment import AlignedText


def lowercase_and_remove_accent(words: Sequence[str]) -> list[str]:
    """Return the words in lower case and without combining marks; drop a word that consists of marks."""
    return [folded for word in words if (folded := casefold(word))]


def casefold(word: str) -> str:
    """Return one word in lower case and without combining marks."""
    if word.isascii():
        return word.lower()
    decomposed = unicodedata.normalize("NFD", word.lower())
    return "".join(character for character in decomposed if unicodedata.category(character) != "Mn")


def casefold_all(words: Sequence[str]) -> list[str]:
    r"""Return ``casefold`` of each word, faster.

    Args:
        words: Without a ``\n``, which divides them here: no rule of Unicode reaches across it.
    """
    text = "\n".join(words).lower()
    if not text.isascii():
        text = unicodedata.normalize("NFD", text)
        for mark in {character for character in set(text) if unicodedata.category(character) == "Mn"}:
            text = text.replace(mark, "")
    return text.split("\n") if words else []


def casefolded(word: AlignedText) -> AlignedText:
    """Return ``casefold`` of an aligned word; what replaces a character has that character's span."""
    if word.text.isascii():
        return AlignedText(word.text.lower(), word.spans)
    # A capital sigma becomes one of two letters by its neighbours; the number of letters is always the same.
    positions = [position for position, character in enumerate(word.text) for _ in character.lower()]
    decomposed = [
        (part, position)
        for character, position in zip(word.text.lower(), positions, strict=True)
        for part in unicodedata.normalize("NFD", character)
    ]
    # Canonical order moves marks only, and the marks of class Mn, which are nearly all, are dropped.
    kept = [word.spans[position] for part, position in decomposed if unicodedata.category(part) != "Mn"]
    text = casefold(word.text)
    assert len(text) == len(kept)
    return AlignedText(text, kept)
