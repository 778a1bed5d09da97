"""From words to readable text: Moses' detokenizer.

A space separates two neighbouring words, unless one of them leans towards the other. A full stop leans to the left, an
opening bracket to the right. A quotation mark leans to the right if it opens a quotation, and to the left if it closes
a quotation. It closes a quotation if the number of such marks before it is odd.

sacremoses differs from Moses' Perl script in two languages, and this file follows the script. In Czech, sacremoses
compares the last words of the text instead of the words before a number, and fails at a dash before ``li``. In Finnish,
sacremoses keeps the space between a colon and a case ending, which the script removes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import lru_cache

from xlm.tokenizer.moses.data import body_of, data_module


class _Leans(Enum):
    """The side on which no space separates a word from its neighbour."""

    NEITHER = "neither"
    LEFT = "left"
    RIGHT = "right"
    BOTH = "both"
    AWAY = "away"
    """A space goes before the word, even after a word that leans to the right."""


_PUNCTUATION = re.compile(r"[,.?!:;\\%}\])]+")
_QUOTES = re.compile("['\"„“`]+")
_SPACED_IN_FRENCH = frozenset("?!:;\\%")
_CZECH_QUOTES = ("„", "“")  # the opening and the closing quotation mark
_DECIMAL_SIGNS, _DASHES = frozenset(".,"), frozenset("-–")
_DIGITS = re.compile("[0-9]+")
_CZECH_AFTER_DASH = re.compile("li|mail.*", re.IGNORECASE)
_FINNISH_SUFFIX = re.compile(
    "(?:N|n|A|a|Ä|ä|ssa|Ssa|ssä|Ssä|sta|stä|Sta|Stä|hun|Hun|hyn|Hyn|han|Han|hän|Hän|hön|Hön|un|Un|yn|Yn|an|An|än|Än"
    "|ön|Ön|seen|Seen|lla|Lla|llä|Llä|lta|Lta|ltä|Ltä|lle|Lle|ksi|Ksi|kse|Kse|tta|Tta|ine|Ine)"
    "(?:ni|si|mme|nne|nsa)?(?:ko|kö|han|hän|pa|pä|kaan|kään|kin)?"
)

# Ranges of code points of Hangul, ideographs and kana.
_CJK = (
    *((0x1100, 0x11FF), (0x2E80, 0xA4CF), (0xA840, 0xA87F), (0xAC00, 0xD7AF), (0xF900, 0xFAFF), (0xFE30, 0xFE4F)),
    *((0xFF65, 0xFFDC), (0x17000, 0x18AFF), (0x1B000, 0x1B12F), (0x1B170, 0x1B2FF), (0x20000, 0x2FFFF)),
)


def detokenized(words: Sequence[str], language: str) -> str:
    """Join words to a text, with spaces as in ordinary writing.

    Source: Moses, scripts/tokenizer/detokenizer.perl.
    """
    words = f" {' '.join(words)} ".replace(" @-@ ", "-").split()
    seen: Counter[str] = Counter()  # how often each quotation mark has occurred so far
    parts: list[str] = []
    joins = True  # whether the next word follows without a space
    for index in range(len(words)):
        leans = _leans(words, index, language, seen)
        if leans is _Leans.AWAY or not (joins or leans in (_Leans.LEFT, _Leans.BOTH)):
            parts.append(" ")
        parts.append(words[index])
        joins = leans in (_Leans.RIGHT, _Leans.BOTH)
    return "".join(parts).strip()


def _leans(words: Sequence[str], index: int, language: str, seen: Counter[str]) -> _Leans:
    """Return the side to which a word leans; if the word is a quotation mark, count it in ``seen``."""
    word = words[index]
    before, after = words[index - 1] if index else "", words[index + 1] if index + 1 < len(words) else ""
    opening, is_letter = _opening().fullmatch, _letter().fullmatch
    if language != "ko" and _is_cjk(word[0]):
        return _Leans.LEFT if before and _is_cjk(before[-1]) else _Leans.NEITHER
    if opening(word):
        return _Leans.RIGHT
    if _PUNCTUATION.fullmatch(word):
        return _Leans.AWAY if language == "fr" and word in _SPACED_IN_FRENCH else _Leans.LEFT
    if language == "en" and before and word[0] == "'" and is_letter(word[1:2]):
        return _Leans.LEFT
    if language == "cs":
        if index > 1 and before in _DECIMAL_SIGNS and _DIGITS.fullmatch(word) and _DIGITS.fullmatch(words[index - 2]):
            return _Leans.LEFT
        if word in _DASHES and is_letter(before[-1:]) and _CZECH_AFTER_DASH.fullmatch(after):
            return _Leans.BOTH
    if language in ("fr", "it", "ga") and word[-1] == "'" and is_letter(word[-2:-1]) and is_letter(after[:1]):
        return _Leans.RIGHT
    if _QUOTES.fullmatch(word):
        return _quote_leans(word, before, language, seen)
    if language == "fi" and before.endswith(":") and _FINNISH_SUFFIX.fullmatch(word):
        return _Leans.LEFT
    return _Leans.NEITHER


def _quote_leans(word: str, before: str, language: str, seen: Counter[str]) -> _Leans:
    mark = word if word.strip("„“") else '"'
    if language == "cs" and word in _CZECH_QUOTES:
        seen[mark] = _CZECH_QUOTES.index(word)
    if seen[mark] % 2 == 0:
        if language == "en" and word == "'" and before.endswith("s"):
            return _Leans.LEFT  # a possessive, as in: the Jones' house
        seen[mark] += 1
        return _Leans.RIGHT
    seen[mark] += 1
    return _Leans.LEFT


def _is_cjk(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in _CJK)


@lru_cache(maxsize=1)
def _opening() -> re.Pattern[str]:
    return re.compile(f"[{body_of(['(', '[', '{', '¿', '¡', *_properties()['IsSc']])}]+")


@lru_cache(maxsize=1)
def _letter() -> re.Pattern[str]:
    return re.compile(f"[{body_of(_properties()['IsAlpha'])}]")


def _properties() -> Mapping[str, str]:
    properties: Mapping[str, str] = data_module("_data_perluniprops").PERLUNIPROPS
    return properties
