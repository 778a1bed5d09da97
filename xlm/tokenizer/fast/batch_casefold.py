"""Lower case without accents, of code points in arrays: ``casefold`` of many words at once."""

from __future__ import annotations

import sys
import unicodedata

import numpy as np

from xlm.tokenizer.casefold import casefold, casefold_all
from xlm.tokenizer.fast.arrays import Array, codes_of, text_of

_UNKNOWN, _DROPPED, _FIRST = 0, 1, 2  # entries of the table; a casefolded code point is above them
_HARD = np.iinfo(np.uint32).max  # its casefolding has several characters, or depends on its neighbours
_CAPITAL_SIGMA = "\u03a3"  # becomes one of two letters by what stands around it


class BatchCasefold:
    """Casefolds code points by a table, which is filled as characters are met."""

    def __init__(self) -> None:
        self._table = np.zeros(sys.maxunicode + 1, np.uint32)  # pages of it that nobody needs take no memory

    def __call__(self, codes: Array) -> Array:
        r"""Return the code points of a text, its words casecasefolded.

        Args:
            codes: Of words without a ``\n``, divided by characters that casefolding leaves alone, such as spaces.
        """
        casefolded: Array = self._table[codes]
        if not casefolded.all():
            for code in np.unique(codes[casefolded == _UNKNOWN]).tolist():
                self._table[code] = _entry(chr(code))
            casefolded = self._table[codes]
        highest = casefolded.max(initial=_FIRST)
        if highest == _HARD:
            return codes_of(casefold_all([text_of(codes)])[0])
        if casefolded.min(initial=_FIRST) == _DROPPED:
            casefolded = casefolded[casefolded != _DROPPED]
        casefolded -= np.uint32(_FIRST)
        return casefolded


def _entry(character: str) -> int:
    casefolded = casefold(character)
    if not casefolded:
        return _DROPPED
    # Marks of classes that stay are put in canonical order among each other.
    if len(casefolded) > 1 or character == _CAPITAL_SIGMA or unicodedata.combining(casefolded):
        return _HARD
    return ord(casefolded) + _FIRST
