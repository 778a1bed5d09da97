"""Abbreviations after which a full stop stays: Moses' non-breaking prefixes, from the data that sacremoses carries."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from xlm.tokenizer.moses_data import data_module

LANGUAGE_NAMES = dict(
    re.findall(
        r"(\w+) (\w+)",
        "assamese as, bengali bn, catalan ca, czech cs, german de, greek el, english en, spanish es, estonian et, "
        "finnish fi, french fr, irish ga, gujarati gu, hindi hi, hungarian hu, icelandic is, italian it, kannada kn, "
        "lithuanian lt, latvian lv, malayalam ml, manipuri mni, marathi mr, dutch nl, oriya or, punjabi pa, polish pl, "
        "portuguese pt, romanian ro, russian ru, slovak sk, slovenian sl, swedish sv, tamil ta, telugu te, tetum tdt, "
        "cantonese yue, chinese zh",
    )
)
"""The languages there are lists of, by the names that sacremoses takes too."""

_NUMERIC = re.compile(r"(.*)\s+#NUMERIC_ONLY#")


@dataclass(frozen=True, slots=True)
class Prefixes:
    """The abbreviations of a language.

    Attributes:
        always: Those that keep their full stop whatever follows.
        before_numbers: Those that keep it only before a digit.
    """

    always: frozenset[str]
    before_numbers: frozenset[str]


@lru_cache(maxsize=256)
def prefixes_of(language: str, *, perl: bool) -> Prefixes:
    """Returns the abbreviations of a language, those of English for a language that Moses does not know.

    Args:
        language: As Moses names it.
        perl: Whether to read the lists as the script does, which keeps spaces at the end of a line; sacremoses does
            not, and takes the English names of languages too.
    """
    lists = data_module("_data_nonbreaking_prefixes").NONBREAKING_PREFIXES
    code = language if perl else LANGUAGE_NAMES.get(language, language)
    text = lists[f"nonbreaking_prefix.{code if code in LANGUAGE_NAMES.values() else 'en'}"]
    lines = text.split("\n") if perl else [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if perl:  # one table from prefix to kind: the later line counts
        kinds = {(match[1] if (match := _NUMERIC.search(line)) else line): match is None for line in lines}
        return Prefixes(
            always=frozenset(prefix for prefix, always in kinds.items() if always),
            before_numbers=frozenset(prefix for prefix, always in kinds.items() if not always),
        )
    numeric = {line.rpartition(" ")[0] for line in lines if re.search(r"\s#NUMERIC_ONLY#", line)}
    return Prefixes(always=frozenset(lines) - numeric, before_numbers=frozenset(numeric))
