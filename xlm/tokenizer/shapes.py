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

_MOST = 1 << 13  # shapes that are remembered
_LONGEST = 48  # characters of a unit
# A rule of English looks for an s, so that it stands for itself.
_LETTERS = str.maketrans(
    {letter: "q" for letter in string.ascii_lowercase if letter != "s"}
    | dict.fromkeys(string.ascii_uppercase, "Q")
    | dict.fromkeys(string.digits, "1")
)
# These the rules look for by name: their marker of dots, and what stands beside a no-break space.
_SEEN_WHOLE = re.compile(r"DOT|MULTI|\u00a0").search
_FULL_STOP = re.compile("[.。．…]").search  # or what the rules make one of


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
        self._runs = re.compile(f"{any_of}+").findall
        self._parts = re.compile(f"({any_of}+)").split
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

    def words_of_all(self, units: Sequence[str], following: str) -> list[Sequence[str]]:
        r"""Returns the words of each of several units.

        Args:
            units: Texts without a ``\n`` that stand alone.
            following: What stands after each of them, as the rules can tell.
        """
        shapes = self._shape("\n".join(units)).split("\n") if units else []
        return [self._words_by_shape(unit, shape, following) for unit, shape in zip(units, shapes, strict=True)]

    def _shape(self, text: str) -> str:
        return self._shorten_number("1", self._shorten("q", text.translate(_LETTERS)))

    def _words_by_shape(self, unit: str, shape: str, following: str) -> Sequence[str]:
        if len(unit) > _LONGEST or _SEEN_WHOLE(unit):
            return self._words(unit, following)
        runs = self._runs(unit)
        if _FULL_STOP(unit) and any(map(self._is_abbreviation, runs)):
            return self._words(unit, following)
        key = shape, following
        if key not in self._known:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[key] = self._template(shape, following)
        template = self._known.get(key)
        return self._words(unit, following) if template is None else (template % tuple(runs)).split(" ")

    def _template(self, shape: str, following: str) -> str | None:
        """Returns the words of a shape, ``%s`` for each run; None if the rules change a run, or know it by name."""
        runs = self._runs(shape)
        if _FULL_STOP(shape) and any(map(self._is_abbreviation, runs)):
            return None
        # What is split at runs has a run at every other place.
        parts = self._parts(" ".join(self._words(shape, following)))
        if parts[1::2] != runs:
            return None
        parts[::2] = [part.replace("%", "%%") for part in parts[::2]]
        parts[1::2] = ["%s"] * len(runs)
        return "".join(parts)
