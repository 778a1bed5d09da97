"""Lower-casing and removal of accents, as the original XLM does for its models of 15 and more languages.

Source: the original's ``tools/lowercase_and_remove_accent.py``.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from xlm.tokenizer.alignment import AlignedText


def lowercase_and_remove_accent(words: Sequence[str]) -> list[str]:
    """Return words in lower case without combining marks; omit words that consist only of marks."""
    return [*filter(None, map(casefold, words))]


def casefold(word: str) -> str:
    """Return a word in lower case without combining marks."""
    if word.isascii():
        return word.lower()
    decomposed = unicodedata.normalize("NFD", word.lower())
    return "".join(character for character in decomposed if unicodedata.category(character) != "Mn")


def casefold_all(words: Sequence[str]) -> list[str]:
    r"""Return the result of ``casefold`` for each word; this is faster than one call for each word.

    Args:
        words: Words without ``\n``. They are processed as one text, joined by ``\n``, because no Unicode rule acts
            across it.
    """
    text = "\n".join(words).lower()
    if not text.isascii():
        text = unicodedata.normalize("NFD", text)
        for mark in {character for character in set(text) if unicodedata.category(character) == "Mn"}:
            text = text.replace(mark, "")
    return text.split("\n") if words else []


def casefolded(word: AlignedText) -> AlignedText:
    """Apply ``casefold`` to an aligned word; the replacement of a character keeps the character's span."""
    if word.text.isascii():
        return AlignedText(word.text.lower(), word.spans)
    # The neighbours of a character can change which lower-case sigma it becomes, but never the number of characters
    # that it becomes.
    positions = [position for position, character in enumerate(word.text) for _ in character.lower()]
    decomposed = [
        (part, position)
        for character, position in zip(word.text.lower(), positions, strict=True)
        for part in unicodedata.normalize("NFD", character)
    ]
    # NFD can reorder only combining marks. Nearly all of them are of category Mn and are dropped here.
    kept = [word.spans[position] for part, position in decomposed if unicodedata.category(part) != "Mn"]
    text = casefold(word.text)
    assert len(text) == len(kept)
    return AlignedText(text, kept)
