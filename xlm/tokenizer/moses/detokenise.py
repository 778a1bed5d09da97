"""From words to readable text: Moses' detokenizer.

Spaces stand on both sides of a word, unless it is punctuation that leans on its neighbour: a full stop to the left, an
opening bracket to the right, a quotation mark to one side or the other by how many of its kind came before.

sacremoses differs from the script in two languages, where this file follows the script. In Czech it compares the last
words of the text instead of those before a number, and fails at a dash before ``li``; in Finnish it keeps the space
that the rule is there to remove.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import lru_cache

from xlm.tokenizer.moses.data import body_of, data_module


class _Leans(Enum):
    """The side to which a word leans."""

    NEITHER = "neither"
    LEFT = "left"
    RIGHT = "right"
    BOTH = "both"
    AWAY = "away"
    """A space stands before it, even after what leans to the right."""


_PUNCTUATION = re.compile(r"[,.?!:;\\%}\])]+")
_QUOTES = re.compile("['\"„“`]+")
_SPACED_IN_FRENCH = frozenset("?!:;\\%")
_CZECH_QUOTES = ("„", "“")  # the opening one and the closing one
_DECIMAL_SIGNS, _DASHES = frozenset(".,"), frozenset("-–")
_DIGITS = re.compile("[0-9]+")
_CZECH_AFTER_DASH = re.compile("li|mail.*", re.IGNORECASE)
_FINNISH_SUFFIX = re.compile(
    "(?:N|n|A|a|Ä|ä|ssa|Ssa|ssä|Ssä|sta|stä|Sta|Stä|hun|Hun|hyn|Hyn|han|Han|hän|Hän|hön|Hön|un|Un|yn|Yn|an|An|än|Än"
    "|ön|Ön|seen|Seen|lla|Lla|llä|Llä|lta|Lta|ltä|Ltä|lle|Lle|ksi|Ksi|kse|Kse|tta|Tta|ine|Ine)"
    "(?:ni|si|mme|nne|nsa)?(?:ko|kö|han|hän|pa|pä|kaan|kään|kin)?"
)

# Code points of Hangul, ideographs and kana, first and last of each range.
_CJK = (
    *((0x1100, 0x11FF), (0x2E80, 0xA4CF), (0xA840, 0xA87F), (0xAC00, 0xD7AF), (0xF900, 0xFAFF), (0xFE30, 0xFE4F)),
    *((0xFF65, 0xFFDC), (0x17000, 0x18AFF), (0x1B000, 0x1B12F), (0x1B170, 0x1B2FF), (0x20000, 0x2FFFF)),
)


def detokenized(words: Sequence[str], language: str) -> str:
    """Return words joined as in ordinary writing.

    Source: Moses, scripts/tokenizer/detokenizer.perl.
    """
    words = f" {' '.join(words)} ".replace(" @-@ ", "-").split()
    seen: Counter[str] = Counter()  # quotation marks so far, by kind
    parts: list[str] = []
    joins = True  # whether what comes next joins what is there
    for place in range(len(words)):
        leans = _leans(words, place, language, seen)
        if leans is _Leans.AWAY or not (joins or leans in (_Leans.LEFT, _Leans.BOTH)):
            parts.append(" ")
        parts.append(words[place])
        joins = leans in (_Leans.RIGHT, _Leans.BOTH)
    return "".join(parts).strip()


def _leans(words: Sequence[str], place: int, language: str, seen: Counter[str]) -> _Leans:
    """Return the side to which a word leans; count a quotation mark in ``seen``."""
    word = words[place]
    before, after = words[place - 1] if place else "", words[place + 1] if place + 1 < len(words) else ""
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
        if place > 1 and before in _DECIMAL_SIGNS and _DIGITS.fullmatch(word) and _DIGITS.fullmatch(words[place - 2]):
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
    kind = word if word.strip("„“") else '"'
    if language == "cs" and word in _CZECH_QUOTES:
        seen[kind] = _CZECH_QUOTES.index(word)
    if seen[kind] % 2 == 0:
        if language == "en" and word == "'" and before.endswith("s"):
            return _Leans.LEFT  # the Jones' house
        seen[kind] += 1
        return _Leans.RIGHT
    seen[kind] += 1
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
