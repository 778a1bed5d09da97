"""Byte-pair encoding of one word: which pieces it is made of.

Source: Sennrich, Haddow and Birch (2016), "Neural Machine Translation of Rare Words with Subword Units", section 3.2.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Sequence
from typing import Any

from xlm.tokenizer.vocabulary import END_OF_WORD

_CACHED_WORDS = 1 << 16
_LONGEST_CACHED_WORD = 64  # characters; real words are shorter, and longer ones would make the cache large
_LONG_WORD = 100  # characters, from where quadratic time is slower
_WINDOW = 1 << 16  # characters of a very long word that are merged at once
_OVERLAP = 64  # pieces at the end of a window that are merged again in the next one
_LAST = 1 + len(END_OF_WORD)  # length of a single character that ends a word


class BPE:
    """Splits words into pieces by merging, at each step, the best pair at all its places from left to right.

    Args:
        merges: Pairs of pieces, best first, in ``</w>`` notation.
        vocabulary: Where given, a merged piece that is not in it is split again into the two it was merged from, and
            these in turn. Source: fastBPE's ``applybpe`` with a vocabulary file.

    Attributes:
        merges: As given.
        vocabulary: As given.
        made: The rank of the merge that makes each piece, in the order of the ranks.
        learnt: Whether the merges are such as learning gives: each part a single character or made by an earlier
            merge, and nothing made twice.
    """

    def __init__(self, merges: Sequence[tuple[str, str]], vocabulary: Container[str] | None = None) -> None:
        self.merges = merges
        self.vocabulary = vocabulary
        self._ranks = {merge: rank for rank, merge in enumerate(merges)}
        self.made: dict[str, int] = {}
        self.learnt = True
        for rank, (left, right) in enumerate(merges):
            made_before = (len(left) == 1 or left in self.made) and (
                len(right) == 1 or right in self.made or (len(right) == _LAST and right.endswith(END_OF_WORD))
            )
            if not made_before or self.made.setdefault(left + right, rank) != rank:
                self.learnt = False
        self._cache: dict[str, tuple[str, ...]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": {}}  # a copy in another process soon has its own

    def __call__(self, word: str) -> tuple[str, ...]:
        """Returns the pieces of a word, the last one ending in ``</w>``.

        Args:
            word: At least one character, no whitespace.
        """
        pieces = self._cache.get(word)
        if pieces is None:
            pieces = tuple(self.split(word))
            if len(word) <= _LONGEST_CACHED_WORD:
                if len(self._cache) >= _CACHED_WORDS:
                    self._cache.clear()  # cheaper than keeping an order, and the frequent words are soon back
                self._cache[word] = pieces
        return pieces

    def split(self, word: str) -> Sequence[str]:
        """Returns the same as calling, without remembering it."""
        if not self.learnt:
            pieces = self._merge(_characters(word))
        elif len(word) < _LONG_WORD:
            pieces = self._merge_short(word)
        else:
            pieces = self._merge(_characters(word)) if len(word) <= _WINDOW else self._merge_windows(word)
        if self.vocabulary is not None:
            known = self.vocabulary
            for piece in pieces:
                if piece not in known:
                    return [part for piece in pieces for part in self._parts_within(piece, known)]
        return pieces

    def _parts_within(self, piece: str, known: Container[str]) -> list[str]:
        parts: list[str] = []
        waiting = [piece]
        while waiting:
            part = waiting.pop()
            rank = None if part in known else self.made.get(part)
            if rank is None:  # known, or a single character
                parts.append(part)
            else:
                waiting += reversed(self.merges[rank])
        return parts

    def _merge_windows(self, word: str) -> list[str]:
        # With learnt merges, pieces are the right ones of a text if each two neighbours are the right ones of theirs.
        # So windows can be merged one after the other, where their pieces meet so; memory then stays small.
        pieces: list[str] = []
        same: dict[str, str] = {}  # one text a piece, not one an occurrence
        start = 0
        while True:
            kept = len(pieces)
            is_last = start + _WINDOW >= len(word)
            end = len(word) if is_last else start + _WINDOW
            found = self._merge_part(word, start, end)
            while pieces and not self._meet(pieces[-1], found[0], ends=is_last and len(found) == 1):
                start -= len(pieces.pop())
                found = self._merge_part(word, start, end)
                if kept - len(pieces) > _OVERLAP:
                    return self._merge(_characters(word))  # no luck: all at once, whatever memory it takes
            if is_last:
                return pieces + found
            done = found[:-_OVERLAP]
            if not done:
                return self._merge(_characters(word))
            pieces += (same.setdefault(piece, piece) for piece in done)
            start += sum(map(len, done))

    def _merge_part(self, word: str, start: int, end: int) -> list[str]:
        return self._merge(_characters(word[start:]) if end == len(word) else list(word[start:end]))

    def _meet(self, left: str, right: str, *, ends: bool) -> bool:
        """Whether two pieces stay two where they are neighbours."""
        characters = _characters(right.removesuffix(END_OF_WORD)) if ends else list(right)
        return self._merge([*left, *characters]) == [left, right]

    def _merge_short(self, word: str) -> list[str]:
        # With learnt merges what a merge makes possible is always worse than itself, so that the best pair furthest
        # left is the next to merge. Quadratic, and for real words several times as fast as what is below.
        pieces = [*word[:-1], word[-1] + END_OF_WORD]
        rank_of, none = self._ranks.get, len(self._ranks)
        ranks = [rank_of(pair, none) for pair in zip(pieces, pieces[1:])]  # noqa: B905, RUF007 (the fastest way)
        while ranks:
            best = min(ranks)
            if best == none:
                break
            place = ranks.index(best)
            piece = pieces[place] = pieces[place] + pieces.pop(place + 1)
            del ranks[place]
            if place:
                ranks[place - 1] = rank_of((pieces[place - 1], piece), none)
            if place < len(ranks):
                ranks[place] = rank_of((piece, pieces[place + 1]), none)
        return pieces

    def _merge(self, pieces: list[str]) -> list[str]:
        # A linked list of pieces and a heap of the pairs that can be merged: O(n log n) for n characters. A piece is
        # named by the place of its first character; one that was merged into its left neighbour becomes "".
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
        return [piece for piece in pieces if piece]


def _characters(word: str) -> list[str]:
    """Returns the pieces that a word is made of before anything is merged."""
    return [*word[:-1], word[-1] + END_OF_WORD]
