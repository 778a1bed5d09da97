"""Byte-pair encoding learnt from words and how often they stand in a text.

The pair of neighbouring pieces that is most frequent is merged everywhere, and so on. Where several pairs are equally
frequent, the one that comes first in the order of its left and then its right piece, by code points, is merged; the
original's choice there depends on its hash table.

All distinct words lie one after the other in one array of pieces, chained in both directions. A merge visits only the
places of its pair, all at once; what it changes in the counts is summed up pair by pair.

Source: Sennrich, Haddow and Birch (2016), section 3.2; fastBPE's ``learnbpe`` for what is counted: in ``a a a`` the
pair ``a a`` counts twice.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from xlm.errors import InputError
from xlm.tokenizer.vocabulary import END_OF_WORD

Array = np.ndarray[Any, Any]
_NONE = -1


@dataclass(frozen=True, slots=True)
class Merge:
    """One merge, and how often its pair was found when it was learnt."""

    left: str
    right: str
    count: int


def learn_merges(
    words: Mapping[str, int], number: int, *, progress: Callable[[int], None] = lambda merges: None
) -> list[Merge]:
    """Returns the merges, best first.

    Args:
        words: How often each word stands in the text.
        number: How many merges to learn; fewer come back when every word is one piece before that.
        progress: Told how many are done, after each.

    Raises:
        InputError: There are no words.
    """
    if not words:
        raise InputError("there are no words to learn from", where="the text", found="0 words")
    learner = _Learner(words)
    merges: list[Merge] = []
    while len(merges) < number and (merge := learner.merge_best()) is not None:
        merges.append(merge)
        progress(len(merges))
    return merges


class _Learner:
    """Pieces in a chain, the places of each pair, and the pairs by their counts."""

    def __init__(self, words: Mapping[str, int]) -> None:
        spelled = [[*word[:-1], word[-1] + END_OF_WORD] for word in words]
        self.names = sorted({piece for pieces in spelled for piece in pieces})
        self._ids = {name: index for index, name in enumerate(self.names)}
        lengths = np.fromiter(map(len, spelled), np.int64, len(spelled))
        size = int(lengths.sum())
        self.pieces = np.fromiter((self._ids[piece] for pieces in spelled for piece in pieces), np.int32, size)
        self.weights = np.repeat(np.fromiter(words.values(), np.int64, len(spelled)), lengths)
        ends = np.cumsum(lengths)
        self.following = np.arange(1, size + 1, dtype=np.int64)
        self.following[ends - 1] = _NONE
        self.preceding = np.arange(-1, size - 1, dtype=np.int64)
        self.preceding[ends - lengths] = _NONE
        # By pair, as left << 32 | right. Places are added as pairs arise and never taken out: a place counts only
        # while the pair still stands there.
        self.counts: dict[int, int] = {}
        self.places: dict[int, list[Array]] = {}
        self.heap: list[tuple[int, str, str, int]] = []
        starts = np.flatnonzero(self.following != _NONE)
        self._add(self._pairs(starts), starts)

    def merge_best(self) -> Merge | None:
        """Merges the best pair everywhere; None when no pair is left."""
        while self.heap:
            negative, left_name, right_name, pair = heapq.heappop(self.heap)
            count = self.counts.get(pair, 0)
            if count == -negative:
                self._merge(pair)
                return Merge(left_name, right_name, count)
            if count:  # it has become rarer since it was put there
                heapq.heappush(self.heap, (-count, left_name, right_name, pair))
        return None

    def _merge(self, pair: int) -> None:
        left, right = pair >> 32, pair & 0xFFFFFFFF
        name = self.names[left] + self.names[right]
        # Two merges can make the same piece: it is then one piece, as it is for who applies them.
        made = self._ids.setdefault(name, len(self.names))
        if made == len(self.names):
            self.names.append(name)
        places = self._standing(pair, left, right)
        rights = self.following[places]
        after, before = self.following[rights], self.preceding[places]
        # A merge's right neighbour may begin the next merge; the pair between them is then counted with that one.
        slots = np.minimum(np.searchsorted(places, after), len(places) - 1)
        is_merged = places[slots] == after
        has_before, has_after = before != _NONE, (after != _NONE) & ~is_merged
        self._take(self._pairs(before[has_before]), self.weights[places[has_before]])
        self._take(self._pairs(rights[has_after]), self.weights[places[has_after]])
        del self.counts[pair]

        self.pieces[places] = made
        self.pieces[rights] = _NONE
        self.following[places] = after
        chained = after != _NONE
        self.preceding[after[chained]] = places[chained]

        before = self.preceding[places]
        starts = np.concatenate([before[has_before], places[has_after]])
        self._add(self._pairs(starts), starts)

    def _standing(self, pair: int, left: int, right: int) -> Array:
        """The places where the pair stands now, ascending; of those that overlap, the ones from the left."""
        parts = self.places.pop(pair)
        places: Array = np.unique(np.concatenate(parts) if len(parts) > 1 else parts[0])
        places = places[self.pieces[places] == left]
        rights = self.following[places]
        kept = (rights != _NONE) & (self.pieces[rights] == right)
        places = places[kept]
        if left != right:
            return places
        taken: list[int] = []
        used = _NONE
        for place, following in zip(places.tolist(), self.following[places].tolist(), strict=True):
            if place != used:
                taken.append(place)
                used = following
        return np.array(taken, np.int64)

    def _pairs(self, starts: Array) -> Array:
        """The pairs that begin at these places."""
        pairs: Array = self.pieces[starts].astype(np.int64) << 32 | self.pieces[self.following[starts]]
        return pairs

    def _take(self, pairs: Array, weights: Array) -> None:
        for pair, weight in zip(*_summed(pairs, weights), strict=True):
            # What becomes rarer keeps its entry in the heap, which is corrected when it comes to the top.
            remaining = self.counts[pair] - weight
            if remaining:
                self.counts[pair] = remaining
            else:
                del self.counts[pair]

    def _add(self, pairs: Array, starts: Array) -> None:
        if not len(pairs):
            return
        order = np.argsort(pairs, kind="stable")
        pairs, starts = pairs[order], starts[order]
        firsts = np.flatnonzero(np.concatenate([[True], pairs[1:] != pairs[:-1]]))
        sums = np.add.reduceat(self.weights[starts], firsts).tolist()
        bounds = [*firsts.tolist(), len(pairs)]
        for number, (pair, weight) in enumerate(zip(pairs[firsts].tolist(), sums, strict=True)):
            count = self.counts[pair] = self.counts.get(pair, 0) + weight
            self.places.setdefault(pair, []).append(starts[bounds[number] : bounds[number + 1]])
            heapq.heappush(self.heap, (-count, self.names[pair >> 32], self.names[pair & 0xFFFFFFFF], pair))


def _summed(pairs: Array, weights: Array) -> tuple[list[int], list[int]]:
    """Each pair once, with the sum of its weights."""
    if not len(pairs):
        return [], []
    order = np.argsort(pairs, kind="stable")
    pairs = pairs[order]
    firsts = np.flatnonzero(np.concatenate([[True], pairs[1:] != pairs[:-1]]))
    return pairs[firsts].tolist(), np.add.reduceat(weights[order], firsts).tolist()
