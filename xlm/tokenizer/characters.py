"""Classes of characters that the Moses rules name, as bodies of a regular expression's ``[…]``.

The same names mean different sets in Perl, which follows Unicode, and in sacremoses, which carries lists made with an
older Unicode, without most ideographs and with the vowel killers of Indic scripts added. Each dialect has its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from xlm.tokenizer.moses_data import data_module

# Perl 5.36, which made the recorded words, knows Unicode 14. Since then these became letters, and these lower case or
# ceased to be.
_NEW_LETTERS = r"\u0363-\u036f\u0c04\u0f82\u0f83\u1dd3-\u1de6\U00011080\U00011081"
_NEW_LOWER, _OLD_LOWER = r"\u10fc\ua7f2-\ua7f4\uab69", r"\u0295"

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
    properties = data_module("_data_perluniprops").PERLUNIPROPS
    indic = data_module("indic")  # the vowel killers and dots below, which its letters lack
    more = [*indic.VIRAMAS, *indic.NUKTAS, *(letter for name in scripts for letter in properties[name])]
    # The classes are used as the ranges that sacremoses itself pastes into its patterns, character by character.
    return _classes(
        alnum=body_of([*properties["IsAlnum"], *more]),
        alpha=body_of([*properties["IsAlpha"], *more]),
        number=body_of(properties["IsN"]),
        lower=body_of(properties["IsLower"]),
    )


@lru_cache(maxsize=1)
def _perl_classes() -> CharacterClasses:
    import regex  # which sacremoses needs too; it knows Unicode's derived property Alphabetic, unicodedata does not

    # Of Unicode's 17 planes the others hold no letter or numeral: two are for private use, the rest is unassigned.
    everything = "".join(map(chr, (*range(0x40000), *range(0xE0000, 0xF0000))))

    def having(properties: str, but: str = _NEW_LETTERS) -> str:
        found = regex.finditer(f"(?V1)[[{properties}]--[{but}]]+", everything)
        return _ranges((ord(match[0][0]), ord(match[0][-1])) for match in found)

    return _classes(
        alnum=having(r"\p{Alphabetic}\p{Nd}"),
        alpha=having(r"\p{Alphabetic}"),
        number=having(r"\p{N}"),
        lower=having(rf"\p{{Lowercase}}{_OLD_LOWER}", _NEW_LOWER),
    )


def classes_of(dialect: str, language: str) -> CharacterClasses:
    """Returns the classes as a dialect has them for a language.

    Args:
        dialect: ``"sacremoses"`` or ``"perl"``.
        language: Matters for Chinese, Japanese and Korean in sacremoses.
    """
    return _perl_classes() if dialect == "perl" else _sacremoses_classes(_SCRIPTS.get(language, ()))


def _classes(*, alnum: str, alpha: str, number: str, lower: str) -> CharacterClasses:
    return CharacterClasses(
        alnum=alnum,
        alpha=alpha,
        number=number,
        has_alpha=re.compile(f"[{alpha}]"),
        lower_first=re.compile(f"[{lower}]"),
    )


def body_of(characters: Iterable[str]) -> str:
    """Returns the body of a ``[…]`` of characters.

    As ranges: a pattern looks through them much faster than through single characters.
    """
    runs: list[list[int]] = []
    for code in sorted(set(map(ord, characters))):
        if runs and runs[-1][1] == code - 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    return _ranges((first, last) for first, last in runs)


def _ranges(runs: Iterable[tuple[int, int]]) -> str:
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in runs)
