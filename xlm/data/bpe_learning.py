"""Byte-pair encoding, learnt from text: count words, learn merges, count pieces.

Each step merges the most frequent pair of neighbouring pieces everywhere. Of equally frequent pairs, it takes the first
by the code points of the left piece, then of the right piece; in the original, the choice depends on a hash table.

One array holds the pieces of all distinct words, linked in both directions. A merge visits only the positions of its
pair, all at once, and updates the counts of the neighbouring pairs.

Source: Sennrich, Haddow and Birch (2016), section 3.2. Pairs are counted as in fastBPE's ``learnbpe``: ``a a a`` has
the pair ``a a`` twice.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from xlm._io.arguments import check_choice
from xlm.data.prepare import read_batches
from xlm.errors import InputError, LanguageError
from xlm.tokenizer import word_segmenters
from xlm.tokenizer.batches import in_order
from xlm.tokenizer.bpe import BPE
from xlm.tokenizer.fast.bpe import FastBPE
from xlm.tokenizer.fast.segmenter import Segmenter
from xlm.tokenizer.moses.tokenise import moses
from xlm.tokenizer.pipeline import PRESETS
from xlm.tokenizer.vocabulary import END_OF_WORD, SPECIAL_TOKENS, Vocabulary, is_writable

Array = np.ndarray[Any, Any]
_NONE = -1
"""Marks a missing neighbour, or a missing piece."""


def count_words(
    path: Path,
    *,
    preset: str | None = None,
    lang: str | None = None,
    format: str | None = None,
    column: str | None = None,
    workers: int = 1,
    progress: Callable[[int], None] = lambda lines: None,
) -> Counter[str]:
    """Return how often each word occurs in a text file.

    Args:
        path: The file, one sentence a row.
        preset: Pipeline that splits raw text into words. None for text that is already split into words by spaces.
        lang: Language of the raw text.
        format: Format of the file; see ``Corpus``.
        column: Column that holds the text; see ``Corpus``.
        workers: Number of processes.
        progress: Called with the number of lines done, from time to time.

    Raises:
        InputError: The text cannot be read, the preset does not exist, or there is a preset without ``lang``.
        LanguageError: The preset cannot split text of this language.
    """
    if preset is not None:
        check_choice("preset", PRESETS, preset=preset)
        if lang is None:
            raise InputError("the language of the text is missing", where="lang", expected="a language such as 'en'")
        if lang in word_segmenters.LANGUAGES:
            raise LanguageError(
                "this language is written without spaces",
                where="lang",
                found=lang,
                expected=f"a language other than {', '.join(word_segmenters.LANGUAGES)}",
                remedy="split the text into words first, and count it without a preset",
            )
    words: Counter[str] = Counter()
    lines = 0
    count = partial(_count, preset=preset, lang=lang)
    for batch_lines, counts in in_order(count, read_batches(path, format=format, column=column), workers=workers):
        words.update(counts)
        lines += batch_lines
        progress(lines)
    return words


def _count(lines: list[str], *, preset: str | None, lang: str | None) -> tuple[int, Counter[str]]:
    """Return the number of lines, and the count of each word in them."""
    words: Counter[str] = Counter()
    if preset is None or lang is None:
        for line in lines:
            words.update(line.split(" "))
        del words[""]  # empty "words" come from consecutive spaces and empty lines
    else:
        split = _splitter(preset, lang)
        for line in lines:
            words.update(split(line))
    return len(lines), words


@cache
def _splitter(preset: str, lang: str) -> Callable[[str], Sequence[str]]:
    """Return the function that splits raw text into words. Each process builds one, as it cannot be pickled."""
    choices = PRESETS[preset]
    return Segmenter(
        moses(choices.dialect, lang),
        casefolds=choices.do_lowercase_and_remove_accent,
        of_word=lambda word: (word,),
    )


@dataclass(frozen=True, slots=True)
class Merge:
    """A merge, with the number of occurrences of its pair when it was learnt."""

    left: str
    right: str
    count: int


def learn_merges(
    words: Mapping[str, int], number: int, *, progress: Callable[[int], None] = lambda merges: None
) -> list[Merge]:
    """Return the merges, the most frequent first.

    Args:
        words: Number of occurrences of each word.
        number: Number of merges to learn. If every word becomes a single piece earlier, fewer merges are returned.
        progress: Called after each merge, with the number of merges so far.

    Raises:
        InputError: There are no words.
    """
    if not words:
        raise InputError("there are no words to learn from", where="words", found="0 words")
    learner = _Learner(words)
    merges: list[Merge] = []
    while len(merges) < number and (merge := learner.merge_best()) is not None:
        merges.append(merge)
        progress(len(merges))
    return merges


class _Learner:
    """Words as linked pieces, with the count and the positions of each pair of neighbours.

    A position is an index into the arrays, which hold one element per piece. A pair is ``left << 32 | right``.
    """

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
        self.counts: dict[int, int] = {}
        # Positions of a pair, possibly outdated: they are added but never removed. A later merge may have replaced the
        # pair at a position, so readers check each position.
        self.positions: dict[int, list[Array]] = {}
        self.heap: list[tuple[int, str, str, int]] = []
        self._add_pairs(np.flatnonzero(self.following != _NONE))

    def merge_best(self) -> Merge | None:
        """Merge the best pair everywhere, and return it; None if no pair is left."""
        while self.heap:
            negative, left_name, right_name, pair = heapq.heappop(self.heap)
            count = self.counts.get(pair, 0)
            if count == -negative:
                self.merge(pair)
                return Merge(left_name, right_name, count)
            if count:  # the pair has become rarer since it was pushed onto the heap
                heapq.heappush(self.heap, (-count, left_name, right_name, pair))
        return None

    def merge(self, pair: int) -> None:
        """Merge a pair everywhere."""
        left, right = pair >> 32, pair & 0xFFFFFFFF
        name = self.names[left] + self.names[right]
        # Two different merges can produce the same piece.
        merged = self._ids.setdefault(name, len(self.names))
        if merged == len(self.names):
            self.names.append(name)
        lefts = self._current_positions(pair, left, right)
        rights = self.following[lefts]
        after, before = self.following[rights], self.preceding[lefts]
        # Two merged pairs may be adjacent. The pair that joins them is then removed and added only once, with the
        # second of them.
        slots = np.minimum(np.searchsorted(lefts, after), len(lefts) - 1)
        begins_next = lefts[slots] == after
        has_before, has_after = before != _NONE, (after != _NONE) & ~begins_next
        self._remove_pairs(before[has_before], self.weights[lefts[has_before]])
        self._remove_pairs(rights[has_after], self.weights[lefts[has_after]])
        del self.counts[pair]

        self.pieces[lefts] = merged
        self.pieces[rights] = _NONE
        self.following[lefts] = after
        has_next = after != _NONE
        self.preceding[after[has_next]] = lefts[has_next]

        before = self.preceding[lefts]
        self._add_pairs(np.concatenate([before[has_before], lefts[has_after]]))

    def _current_positions(self, pair: int, left: int, right: int) -> Array:
        """Return the positions of a pair in ascending order; of overlapping occurrences, the leftmost ones."""
        arrays = self.positions.pop(pair)
        positions: Array = np.unique(np.concatenate(arrays) if len(arrays) > 1 else arrays[0])
        positions = positions[self.pieces[positions] == left]
        rights = self.following[positions]
        positions = positions[(rights != _NONE) & (self.pieces[rights] == right)]
        if left != right:
            return positions
        separate: list[int] = []
        used = _NONE
        for position, following in zip(positions.tolist(), self.following[positions].tolist(), strict=True):
            if position != used:
                separate.append(position)
                used = following
        return np.array(separate, np.int64)

    def _sorted_pairs(self, positions: Array) -> tuple[Array, Array, Array]:
        """Return the sorted pairs that begin at these positions, and two arrays of indices.

        The first array sorts the pairs. The second array has the index of each distinct pair's first occurrence.
        """
        pairs = self.pieces[positions].astype(np.int64) << 32 | self.pieces[self.following[positions]]
        order = np.argsort(pairs, kind="stable")
        pairs = pairs[order]
        return pairs, order, np.flatnonzero(np.concatenate([[True], pairs[1:] != pairs[:-1]]))

    def _remove_pairs(self, positions: Array, weights: Array) -> None:
        if not len(positions):
            return
        pairs, order, firsts = self._sorted_pairs(positions)
        sums = np.add.reduceat(weights[order], firsts).tolist()
        for pair, weight in zip(pairs[firsts].tolist(), sums, strict=True):
            # The heap still has the old count of the pair; ``merge_best`` corrects it.
            remaining = self.counts[pair] - weight
            if remaining:
                self.counts[pair] = remaining
            else:
                del self.counts[pair]

    def _add_pairs(self, positions: Array) -> None:
        if not len(positions):
            return
        pairs, order, firsts = self._sorted_pairs(positions)
        positions = positions[order]
        sums = np.add.reduceat(self.weights[positions], firsts).tolist()
        bounds = [*firsts.tolist(), len(pairs)]
        for number, (pair, weight) in enumerate(zip(pairs[firsts].tolist(), sums, strict=True)):
            count = self.counts[pair] = self.counts.get(pair, 0) + weight
            self.positions.setdefault(pair, []).append(positions[bounds[number] : bounds[number + 1]])
            heapq.heappush(self.heap, (-count, self.names[pair >> 32], self.names[pair & 0xFFFFFFFF], pair))


def count_pieces(words: Mapping[str, int], merges: Iterable[tuple[str, str]]) -> tuple[Vocabulary, list[str]]:
    """Return the vocabulary of words split by BPE, the most frequent piece first.

    Equally frequent pieces are in the order of their UTF-8 bytes, as fastBPE writes them.

    Args:
        words: Number of occurrences of each word.
        merges: The merges, the most frequent first.

    Returns:
        The vocabulary with its counts, and the pieces that it omits because no vocabulary file can hold them.

    Source: fastBPE's ``getvocab`` after ``applybpe``.
    """
    bpe = FastBPE(BPE(tuple(merges)), {}, 0)
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for piece in bpe.split(word):
            counts[piece] += count
    omitted = [piece for piece in counts if not is_writable(piece)]
    for piece in omitted:
        del counts[piece]
    # Sort pieces by their spelling in the file, which marks them with @@.
    spellings = Vocabulary(tokens=(*SPECIAL_TOKENS, *counts)).words()[len(SPECIAL_TOKENS) :]
    rows = sorted(zip(spellings, counts.items(), strict=True), key=lambda row: (-row[1][1], row[0].encode()))
    vocabulary = Vocabulary(
        tokens=(*SPECIAL_TOKENS, *(piece for _, (piece, _) in rows)),
        counts=(*(0 for _ in SPECIAL_TOKENS), *(count for _, (_, count) in rows)),
    )
    return vocabulary, omitted
