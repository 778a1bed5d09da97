"""Byte-pair encoding of one word: which pieces it is made of.

Source: Sennrich, Haddow and Birch (2016), "Neural Machine Translation of Rare Words with Subword Units", section 3.2.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from xlm.tokenizer.vocabulary import END_OF_WORD

_CACHED_WORDS = 1 << 16
_LONGEST_CACHED_WORD = 64  # characters; real words are shorter, and longer ones would make the cache large


class BPE:
    """Splits words into pieces by merging, at each step, the best pair at all its places from left to right.

    Args:
        merges: Pairs of pieces, best first, in ``</w>`` notation.
    """

    def __init__(self, merges: Sequence[tuple[str, str]]) -> None:
        self._ranks = {merge: rank for rank, merge in enumerate(merges)}
        self._cache: dict[str, tuple[str, ...]] = {}

    def __call__(self, word: str) -> tuple[str, ...]:
        """Returns the pieces of a word, the last one ending in ``</w>``.

        Args:
            word: At least one character, no whitespace.
        """
        pieces = self._cache.get(word)
        if pieces is None:
            pieces = self._merge(word)
            if len(word) <= _LONGEST_CACHED_WORD:
                if len(self._cache) >= _CACHED_WORDS:
                    self._cache.clear()  # cheaper than keeping an order, and the frequent words are soon back
                self._cache[word] = pieces
        return pieces

    def _merge(self, word: str) -> tuple[str, ...]:
        # A linked list of pieces and a heap of the pairs that can be merged: O(n log n) for n characters. A piece is
        # named by the place of its first character; one that was merged into its left neighbour becomes "".
        pieces = [*word[:-1], word[-1] + END_OF_WORD]
        end = len(pieces)
        following = list(range(1, end + 1))
        preceding = list(range(-1, end - 1))
        ranks = self._ranks
        heap: list[tuple[int, int]] = []

        def offer(left: int) -> None:
            """Puts the pair that begins at ``left`` on the heap, if there is one and it can be merged."""
            if left >= 0 and following[left] < end:
                rank = ranks.get((pieces[left], pieces[following[left]]))
                if rank is not None:
                    heapq.heappush(heap, (rank, left))

        for place in range(end):
            offer(place)
        while heap:
            # All places of the best pair come first, and what they make possible only then: a new pair may be better
            # than this one, and would otherwise take a piece from a place further right.
            best = heap[0][0]
            merged = []
            while heap and heap[0][0] == best:
                left = heapq.heappop(heap)[1]
                right = following[left]
                # The pair may be gone: one of its pieces was merged with another neighbour meanwhile.
                if right == end or ranks.get((pieces[left], pieces[right])) != best:
                    continue
                pieces[left] += pieces[right]
                pieces[right] = ""
                following[left] = following[right]
                if following[left] < end:
                    preceding[following[left]] = left
                merged.append(left)
            for left in merged:
                offer(preceding[left])
                offer(left)
        return tuple(piece for piece in pieces if piece)
