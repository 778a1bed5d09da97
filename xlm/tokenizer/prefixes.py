"""Abbreviations after which a full stop stays: Moses' non-breaking prefixes, from the data that sacremoses carries."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

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


@lru_cache(maxsize=64)
def prefixes_of(language: str, *, perl: bool) -> Prefixes:
    """Returns the abbreviations of a language, those of English for a language that Moses does not know.

    Args:
        language: As Moses names it.
        perl: Whether to read the lists as the script does, which keeps spaces at the end of a line; sacremoses does
            not, and takes the English names of languages too.
    """
    from sacremoses._data_nonbreaking_prefixes import NONBREAKING_PREFIXES

    if perl:
        text = NONBREAKING_PREFIXES.get(f"nonbreaking_prefix.{language}", NONBREAKING_PREFIXES["nonbreaking_prefix.en"])
        lines = [line for line in text.split("\n") if line and not line.startswith("#")]
    else:
        from sacremoses.corpus import NonbreakingPrefixes

        lines = list(NonbreakingPrefixes().words(language))
    numeric = {match[1] for line in lines if (match := _NUMERIC.search(line))}
    if perl:  # one table from prefix to kind: the later line counts
        kinds = {(match[1] if (match := _NUMERIC.search(line)) else line): match is None for line in lines}
        return Prefixes(
            always=frozenset(prefix for prefix, always in kinds.items() if always),
            before_numbers=frozenset(prefix for prefix, always in kinds.items() if not always),
        )
    numeric = {line.rpartition(" ")[0] for line in lines if re.search(r"\s#NUMERIC_ONLY#", line)}
    return Prefixes(always=frozenset(lines) - numeric, before_numbers=frozenset(numeric))
