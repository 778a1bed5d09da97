"""Lower case without accents, of code points in arrays: what ``folding.fold`` gives, for many words at once."""

from __future__ import annotations

import sys
import unicodedata

import numpy as np

from xlm.tokenizer.batch_arrays import Array, codes_of, text_of
from xlm.tokenizer.folding import fold, fold_all

_UNKNOWN, _DROPPED, _FIRST = 0, 1, 2  # what the table says of a character; a code is above them
_HARD = np.iinfo(np.uint32).max  # its folding has several characters, or depends on its neighbours
_CAPITAL_SIGMA = "\u03a3"  # becomes one of two letters by what stands around it


class FoldedCodes:
    """Folds code points by a table, which is filled as characters are met."""

    def __init__(self) -> None:
        self._table = np.zeros(sys.maxunicode + 1, np.uint32)  # pages of it that nobody needs take no memory

    def __call__(self, codes: Array) -> Array:
        r"""Returns the code points of a text whose words are folded.

        Args:
            codes: Of words without a ``\n``, divided by characters that folding does not touch, such as spaces.
        """
        folded: Array = self._table[codes]
        if not folded.all():
            for code in np.unique(codes[folded == _UNKNOWN]).tolist():
                self._table[code] = _entry(chr(code))
            folded = self._table[codes]
        highest = folded.max(initial=_FIRST)
        if highest == _HARD:
            return codes_of(fold_all([text_of(codes)])[0])
        if folded.min(initial=_FIRST) == _DROPPED:
            folded = folded[folded != _DROPPED]
        folded -= np.uint32(_FIRST)
        return folded


def _entry(character: str) -> int:
    folded = fold(character)
    if not folded:
        return _DROPPED
    # Marks of other classes than the one that is dropped are put into an order among each other.
    if len(folded) > 1 or character == _CAPITAL_SIGMA or unicodedata.combining(folded):
        return _HARD
    return ord(folded) + _FIRST
