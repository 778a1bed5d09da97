"""Classes of characters that the Moses rules name, as bodies of a regular expression's ``[…]``.

The same names mean different sets in Perl, which follows Unicode, and in sacremoses, which carries lists made with an
older Unicode, without most ideographs and with the vowel killers of Indic scripts added. Each dialect has its own.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

# Marks that are letters since Unicode 16. Perl 5.36, which made the recorded words, knows Unicode 14.
_LETTERS_SINCE_16 = r"\u0363-\u036f\u0c04\u0f82\u0f83\u1dd3-\u1de6\U00011080\U00011081"

# sacremoses adds these, for these languages, to its letters.
_SCRIPTS = {"ko": ("Hangul",), "zh": ("Han",), "ja": ("Hiragana", "Katakana", "Han")}


@dataclass(frozen=True, slots=True)
class CharacterClasses:
    r"""Bodies of ``[…]``, and two of the classes as patterns of one character.

    Attributes:
        alnum: ``\p{IsAlnum}``: letters, marks that belong to them, decimal digits.
        alpha: ``\p{IsAlpha}``: the same without digits.
        number: ``\p{IsN}``: digits and all other numerals.
        has_alpha: Finds a character of ``alpha``.
        lower_first: Matches a text that begins with ``\p{IsLower}``.
    """

    alnum: str
    alpha: str
    number: str
    has_alpha: re.Pattern[str]
    lower_first: re.Pattern[str]


@lru_cache(maxsize=8)
def _sacremoses_classes(scripts: tuple[str, ...]) -> CharacterClasses:
    from sacremoses.tokenize import MosesTokenizer, perluniprops

    more = [ord(character) for script in scripts for character in perluniprops.chars(script)]
    # The classes are used as the ranges that sacremoses itself pastes into its patterns, character by character.
    return _classes(
        alnum=[*map(ord, MosesTokenizer.IsAlnum), *more],
        alpha=[*map(ord, MosesTokenizer.IsAlpha), *more],
        number=map(ord, MosesTokenizer.IsN),
        lower=map(ord, MosesTokenizer.IsLower),
    )


@lru_cache(maxsize=1)
def _perl_classes() -> CharacterClasses:
    import regex  # which sacremoses needs too; it knows Unicode's derived property Alphabetic, unicodedata does not

    everything = "".join(map(chr, range(sys.maxunicode + 1)))

    def having(properties: str) -> Iterable[int]:
        runs = regex.findall(f"(?V1)[[{properties}]--[{_LETTERS_SINCE_16}]]+", everything)
        return (code for run in runs for code in map(ord, run))

    return _classes(
        alnum=having(r"\p{Alphabetic}\p{Nd}"),
        alpha=having(r"\p{Alphabetic}"),
        number=having(r"\p{N}"),
        lower=(code for code, character in enumerate(everything) if character.islower()),
    )


def classes_of(dialect: str, language: str) -> CharacterClasses:
    """Returns the classes as a dialect has them for a language.

    Args:
        dialect: ``"sacremoses"`` or ``"perl"``.
        language: Matters for Chinese, Japanese and Korean in sacremoses.
    """
    return _perl_classes() if dialect == "perl" else _sacremoses_classes(_SCRIPTS.get(language, ()))


def _classes(
    *, alnum: Iterable[int], alpha: Iterable[int], number: Iterable[int], lower: Iterable[int]
) -> CharacterClasses:
    letters = _body(alpha)
    return CharacterClasses(
        alnum=_body(alnum),
        alpha=letters,
        number=_body(number),
        has_alpha=re.compile(f"[{letters}]"),
        lower_first=re.compile(f"[{_body(lower)}]"),
    )


def _body(codes: Iterable[int]) -> str:
    """Returns code points as ranges: a pattern looks through ranges much faster than through single characters."""
    runs: list[list[int]] = []
    for code in sorted(set(codes)):
        if runs and runs[-1][1] == code - 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in runs)
