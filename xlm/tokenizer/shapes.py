"""What the rules make of a unit, known from another one of the same shape.

Of a run of letters, digits and hyphens the rules see only what its first and last character are, whether there is a
letter in it, and whether it is an abbreviation. So ``"Berlin",`` and ``"Hamburg",`` come out alike, and the rules are
asked once, about a short unit of that shape: a letter for each letter at the ends of a run, one for what is between.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence

from xlm.tokenizer.moses import Moses

MOST = 1 << 13
"""Shapes that are remembered."""
LONGEST = 48
"""Characters of the longest unit that goes by its shape."""
FIRST_BEYOND = 0x250
"""The first code of which no character is in a run."""
SEEN_WHOLE = ("DOT", "MULTI", "\u00a0")
"""What the rules look for by name: their marker of dots, and a no-break space by what stands beside it."""

# A rule of English looks for an s, so that it stands for itself.
_LETTERS = str.maketrans(
    {letter: "q" for letter in string.ascii_lowercase if letter != "s"}
    | dict.fromkeys(string.ascii_uppercase, "Q")
    | dict.fromkeys(string.digits, "1")
)
_SEEN_WHOLE = re.compile("|".join(SEEN_WHOLE)).search
_FULL_STOP = re.compile("[.。．…]").search  # or what the rules make one of


def has_full_stop(unit: str) -> bool:
    """Whether there is a full stop in a unit, or what the rules make one of: an abbreviation can matter."""
    return _FULL_STOP(unit) is not None


class Shapes:
    """Words of units by their shape.

    Args:
        rules: The rules, of which the abbreviations are used.
        letters: The body of a ``[…]`` of the letters that can be in a run beside those of ASCII; the rules must do
            nothing with them but what they do with a letter.
        words: Returns the words of a unit by the rules, before a text of which they see only the kind.
    """

    def __init__(self, rules: Moses, letters: str, words: Callable[[str, str], Sequence[str]]) -> None:
        self._is_abbreviation = rules.is_abbreviation
        self._words = words
        any_of, letter = f"[A-Za-z0-9{letters}-]", f"[A-Za-z{letters}]"
        self.is_in_run = _is(any_of)
        self.is_letter = _is(letter)
        self.runs: Callable[[str], list[str]] = re.compile(f"{any_of}+").findall
        self._parts: Callable[[str], list[str]] = re.compile(f"({any_of}+)").split
        # Lookarounds rather than groups, so that the replacement is plain text, which is much faster.
        self._shorten = re.compile(f"(?<={any_of}){any_of}*{letter}{any_of}*(?={any_of})").sub
        self._shorten_number = re.compile(f"(?<={any_of})[0-9-]+(?={any_of})").sub
        self._known: dict[tuple[str, str], str | None] = {}

    def words(self, unit: str, following: str) -> Sequence[str]:
        """Returns the words of a unit.

        Args:
            unit: Text that stands alone.
            following: What stands after it, as the rules can tell.
        """
        return self._words_by_shape(unit, self._shape(unit), following)

    def _shape(self, text: str) -> str:
        return self._shorten_number("1", self._shorten("q", self.letters_alike(text)))

    def _words_by_shape(self, unit: str, shape: str, following: str) -> Sequence[str]:
        if len(unit) > LONGEST or _SEEN_WHOLE(unit):
            return self._words(unit, following)
        runs = self.runs(unit)
        if has_full_stop(unit) and any(map(self._is_abbreviation, runs)):
            return self._words(unit, following)
        key = shape, following
        if key not in self._known:
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[key] = self._template(shape, following)
        template = self._known.get(key)
        return self._words(unit, following) if template is None else (template % tuple(runs)).split(" ")

    def letters_alike(self, text: str) -> str:
        """Returns a text with the letters and digits of ASCII put alike that the rules do not tell apart."""
        return text.translate(_LETTERS)

    def parts(self, shape: str, words: Sequence[str]) -> list[str] | None:
        """Returns the words of a shape, joined by spaces and split at its runs, which are every other part.

        None if the rules change a run, or know it by name: then a unit does not come out as its shape does.

        Args:
            shape: A unit that stands for those of its shape.
            words: Its words.
        """
        runs = self.runs(shape)
        if has_full_stop(shape) and any(map(self._is_abbreviation, runs)):
            return None
        parts = self._parts(" ".join(words))
        return parts if parts[1::2] == runs else None

    def _template(self, shape: str, following: str) -> str | None:
        """Returns the words of a shape, ``%s`` for each run; None if there are none for all units of it."""
        parts = self.parts(shape, self._words(shape, following))
        if parts is None:
            return None
        parts[::2] = [part.replace("%", "%%") for part in parts[::2]]
        parts[1::2] = ["%s"] * (len(parts) // 2)
        return "".join(parts)


def _is(class_of_characters: str) -> Callable[[str], bool]:
    match = re.compile(class_of_characters).match
    return lambda character: match(character) is not None
