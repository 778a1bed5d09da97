"""Lower case without accents, as the original's models of 15 and more languages were trained."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence


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


def fold_characters(word: str) -> Iterator[tuple[str, int]]:
    """Yields the characters of ``fold(word)``, each with the place in the word of the character it came from."""
    # Sigma is the one letter whose lower case depends on its neighbours; it is one character either way.
    lowered = "".join(
        lower_word if len(lower_word) == 1 else character.lower()
        for character, lower_word in zip(word, _lower_in_place(word), strict=True)
    )
    places = [place for place, character in enumerate(word) for _ in character.lower()]
    decomposed: list[tuple[str, int]] = []
    for character, place in zip(lowered, places, strict=True):
        decomposed += [(part, place) for part in unicodedata.normalize("NFD", character)]
    # Only marks change places in canonical order, and those that count as marks here are dropped; the rest keep theirs.
    kept = [pair for pair in decomposed if unicodedata.category(pair[0]) != "Mn"]
    folded = fold(word)
    assert len(kept) == len(folded), (word, folded)
    for character, (_, place) in zip(folded, kept, strict=True):
        yield character, place


def _lower_in_place(word: str) -> Iterator[str]:
    if "Σ" not in word:
        yield from (character.lower() for character in word)
        return
    lowered = word.lower()
    place = 0
    for character in word:
        length = len(character.lower())
        yield lowered[place : place + length]
        place += length
