"""Byte-pair encoding of many words at once in numpy, about ten times as fast as one word at a time.

At each step, the best pair of every word is merged, the leftmost if it occurs several times, until no word has a pair
that can be merged. Each word is a column of the arrays, so a step is a few operations on whole rows.

Array dimensions: W words, L positions (the first character of a word is at position 0), S symbols, P pairs.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Generic, TypeVar

import numpy as np

from xlm.tokenizer.bpe import BPE
from xlm.tokenizer.fast.arrays import Array, codes_of, expand_slices, starts_of
from xlm.tokenizer.vocabulary import END_OF_WORD

T = TypeVar("T")

MAX_WORD_LENGTH = 48
"""Length of the longest word that ``BatchBPE`` splits, in characters."""
_POSITION_BITS = 6  # the lowest bits of a key hold a position, from 0 to MAX_WORD_LENGTH; the higher bits hold a rank
_POSITIONS = (1 << _POSITION_BITS) - 1
_NO_RANK = np.int32(np.iinfo(np.int32).max >> _POSITION_BITS)  # the rank of a pair that is not a merge
_NO_KEY = _NO_RANK << _POSITION_BITS  # the smallest key with the rank _NO_RANK
_LENGTHS = (3, 5, 7, 9, 12, 16, 24, MAX_WORD_LENGTH)  # words are grouped by these limits on their length
_MAX_COLUMNS = 1 << 14  # maximum number of words that are merged together, so that the arrays stay small
_FEW = 256  # up to this many words, splitting them one at a time is faster
_MAX_WORDS = 1 << 16  # maximum number of words that are split at once, so that the arrays stay small
_MAX_ROUNDS = 256  # rounds after which the search for multipliers starts again; published merges need about 30 rounds
_NO_PAIR = np.uint64((1 << 64) - 1)  # marks a free entry of the hash table
_NO_SYMBOL = np.int32(np.iinfo(np.int32).max)  # is in no pair that is a merge
_NEW, _EASY, _HARD = 0, 1, 2  # states of a symbol
_GONE = -1  # marks a position without a symbol: it was merged into the symbol before it, or is past the end of the word


class BatchBPE:
    """Splits words into symbols. A symbol is the number of a piece.

    The symbol of a merged piece is the rank of its merge. After these symbols, each code point has two: inside a word
    and at its end. Nothing changes later, so threads can share it.

    Args:
        bpe: Merges for which ``BPE.learnt`` is true: with such merges, the leftmost of the best pairs is always the
            next to merge.
    """

    def __init__(self, bpe: BPE) -> None:
        self._merged = [*bpe.piece_ranks]  # the piece of each merge
        self.symbols = len(self._merged) + 2 * (sys.maxunicode + 1)  # the number of symbols
        lefts_P, rights_P = (np.array(ranks, np.int32) for ranks in bpe.part_ranks)
        for symbols_P in (lefts_P, rights_P):
            characters = np.flatnonzero(symbols_P < 0)
            symbols_P[characters] = len(self._merged) + ~symbols_P[characters]
        self._pairs = _PairRanks(lefts_P, rights_P)

    def pieces(self, symbols: Array) -> list[str]:
        """Return the pieces of symbols in ascending order."""
        merged = int(np.searchsorted(symbols, len(self._merged)))
        pieces = [*map(self._merged.__getitem__, symbols[:merged].tolist())]
        for symbol in symbols[merged:].tolist():
            code, is_last = divmod(symbol - len(self._merged), 2)
            pieces.append(chr(code) + (END_OF_WORD if is_last else ""))
        return pieces

    def split(self, words: Sequence[str]) -> tuple[Array, Array]:
        """Return the symbols of all words, word by word, and the number of symbols of each word.

        Args:
            words: At least one word; each has 1 to ``MAX_WORD_LENGTH`` characters.

        Returns:
            The symbols, int32 (S,), and the numbers of symbols, int64 (W,).
        """
        lengths_W = np.fromiter(map(len, words), np.int64, len(words))
        ends_W = np.cumsum(lengths_W)
        starts_W = ends_W - lengths_W
        codes = codes_of("".join(words))
        symbols = codes.astype(np.int32)
        symbols += symbols
        symbols += len(self._merged)
        symbols[ends_W - 1] += 1
        shorter = 1  # a word of one character needs no merge
        for longest in _LENGTHS:
            similar = np.flatnonzero((lengths_W > shorter) & (lengths_W <= longest))
            for first in range(0, len(similar), _MAX_COLUMNS):
                some = similar[first : first + _MAX_COLUMNS]
                self._merge(symbols, starts_W[some], lengths_W[some], longest)
            shorter = longest
        is_left = symbols != _GONE
        return symbols[is_left], np.add.reduceat(is_left, starts_W, dtype=np.int64)

    def _merge(self, symbols: Array, starts_W: Array, lengths_W: Array, longest: int) -> None:
        """Merge the symbols of words of at most ``longest`` characters, in place."""
        L, W = longest, len(starts_W)
        positions_L1 = np.arange(L, dtype=np.int32)[:, None]
        # Position L stands for both the position before a word and the position after it; its symbol is in no pair.
        symbols_LW = np.full((L + 1, W), _GONE, np.int32)
        inside_LW = positions_L1 < lengths_W
        symbols_LW[:L][inside_LW] = symbols[(starts_W + positions_L1)[inside_LW]]
        symbols_LW[L] = _NO_SYMBOL
        following_LW = np.repeat(np.arange(1, L + 2, dtype=np.int32)[:, None], W, axis=1)
        following_LW[lengths_W - 1, np.arange(W)] = L
        preceding_LW = np.repeat(np.arange(-1, L, dtype=np.int32)[:, None], W, axis=1)
        preceding_LW[0] = L
        keys_LW = np.full((L + 1, W), _NO_KEY, np.int32)
        pairs_LW = positions_L1 < lengths_W - 1
        ranks_P = self._pairs.ranks(symbols_LW[:L][pairs_LW], symbols_LW[1:][pairs_LW])
        keys_LW[:L][pairs_LW] = ranks_P << _POSITION_BITS | np.broadcast_to(positions_L1, (L, W))[pairs_LW]
        while True:
            best_W = keys_LW.min(axis=0)
            some = np.flatnonzero(best_W < _NO_KEY)
            if 4 * len(some) < 3 * W or not len(some):  # drop finished words if they are over a quarter of all
                done = np.flatnonzero(best_W >= _NO_KEY)
                inside_LW = positions_L1 < lengths_W[done]
                symbols[(starts_W[done] + positions_L1)[inside_LW]] = symbols_LW[:L, done][inside_LW]
                if not len(some):
                    return
                # take keeps the arrays contiguous, so the flat arrays below are views
                symbols_LW, keys_LW = symbols_LW.take(some, axis=1), keys_LW.take(some, axis=1)
                following_LW, preceding_LW = following_LW.take(some, axis=1), preceding_LW.take(some, axis=1)
                starts_W, lengths_W, best_W = starts_W[some], lengths_W[some], best_W[some]
                W = len(some)
                some = np.arange(W)
            best = best_W[some]
            merged, position = best >> _POSITION_BITS, best & _POSITIONS
            flat, keys = symbols_LW.reshape(-1), keys_LW.reshape(-1)
            following, preceding = following_LW.reshape(-1), preceding_LW.reshape(-1)
            at = position * W + some
            right = following[at] * W + some
            position_after, position_before = following[right], preceding[at]
            after, before = position_after * W + some, position_before * W + some
            flat[at], flat[right] = merged, _GONE
            following[at], preceding[after] = position_after, position
            keys[right] = _NO_KEY
            ranks = self._pairs.ranks(np.concatenate([merged, flat[before]]), np.concatenate([flat[after], merged]))
            keys[np.concatenate([at, before])] = ranks << _POSITION_BITS | np.concatenate([position, position_before])


class _PairRanks:
    """The ranks of pairs of symbols, in a perfect hash table: a look-up reads one entry.

    A first hash assigns each pair to a bucket. Each bucket has its own multiplier for a second hash, which assigns each
    pair to an entry of the table. The multipliers are chosen so that no two pairs share an entry.
    """

    def __init__(self, lefts_P: Array, rights_P: Array) -> None:
        pairs_P = _pairs(lefts_P, rights_P)
        while not self._fill(pairs_P):
            pass  # no multiplier was found for a bucket with many pairs; the next first hash spreads these pairs

    def _fill(self, pairs_P: Array) -> bool:
        """Fill the table, and return whether a multiplier was found for every bucket."""
        bits = (4 * len(pairs_P)).bit_length()
        self._to_bucket, self._to_entry = np.uint64(64 - max(bits - 2, 1)), np.uint64(64 - bits)
        # The multiplier is random: if it were known, a malicious file could hold merges that all share a bucket.
        self._mix = np.uint64(secrets.randbits(64) | 1)
        self._multipliers = np.zeros(1 << max(bits - 2, 1), np.uint64)
        self._pairs = np.full(1 << bits, _NO_PAIR, np.uint64)
        self._ranks = np.full(1 << bits, _NO_RANK, np.int32)
        ranks_P = np.arange(len(pairs_P), dtype=np.int32)
        last_in_entry = np.empty(1 << bits, np.int32)
        for _ in range(_MAX_ROUNDS):
            if not len(pairs_P):
                return True
            buckets_P = self._buckets(pairs_P)
            self._multipliers[buckets_P] = secrets.randbits(64) | 1
            entries_P = self._entries(pairs_P)
            numbers_P = np.arange(len(pairs_P), dtype=np.int32)
            last_in_entry[entries_P] = numbers_P
            is_taken_P = (self._pairs[entries_P] != _NO_PAIR) | (last_in_entry[entries_P] != numbers_P)
            is_bad_bucket = np.zeros(len(self._multipliers), bool)
            is_bad_bucket[buckets_P[is_taken_P]] = True
            is_bad_P = is_bad_bucket[buckets_P]
            self._pairs[entries_P[~is_bad_P]] = pairs_P[~is_bad_P]
            self._ranks[entries_P[~is_bad_P]] = ranks_P[~is_bad_P]
            pairs_P, ranks_P = pairs_P[is_bad_P], ranks_P[is_bad_P]
        return False

    def _buckets(self, pairs_P: Array) -> Array:
        buckets_P: Array = (pairs_P * self._mix) >> self._to_bucket
        return buckets_P.view(np.int64)

    def _entries(self, pairs_P: Array) -> Array:
        entries_P: Array = (pairs_P * self._multipliers[self._buckets(pairs_P)]) >> self._to_entry
        return entries_P.view(np.int64)

    def ranks(self, lefts_P: Array, rights_P: Array) -> Array:
        """Return the rank of each pair, ``_NO_RANK`` for a pair that is not a merge: int32 (P,)."""
        pairs_P = _pairs(lefts_P, rights_P)
        entries_P = self._entries(pairs_P)
        return np.where(self._pairs[entries_P] == pairs_P, self._ranks[entries_P], _NO_RANK)


def _pairs(lefts_P: Array, rights_P: Array) -> Array:
    pairs_P = lefts_P.astype(np.uint64)
    pairs_P <<= np.uint64(32)
    pairs_P |= rights_P.astype(np.uint64)
    return pairs_P


class BatchWords(Generic[T]):
    """Maps many words to their values, which are pieces or ids.

    Args:
        bpe: Splits words into pieces.
        of_word: Returns the values of one word.
        of_pieces: Returns the value of each piece.
        dtype: The numpy type of the values: ``"int32"`` for ids, ``"object"`` for pieces.
    """

    def __init__(
        self,
        bpe: BPE,
        *,
        of_word: Callable[[str], Sequence[T]],
        of_pieces: Callable[[Iterable[str]], Iterable[T]],
        dtype: str,
    ) -> None:
        self.dtype = dtype
        self._bpe = bpe
        self._of_word = of_word
        self._of_pieces = of_pieces
        self._tables: tuple[BatchBPE, Array, Array] | None = None

    def __call__(self, words: Sequence[str]) -> tuple[Array, Array]:
        """Return the values of words, word by word, and the number of values of each word.

        Args:
            words: The words; each has at least one character.

        Returns:
            The values, (S,), and the numbers of values, int64 (W,).
        """
        if self._bpe.learnt and len(words) > _FEW:
            values, counts = zip(
                *(self._of_some(words[i : i + _MAX_WORDS]) for i in range(0, len(words), _MAX_WORDS)), strict=True
            )
            return np.concatenate(values), np.concatenate(counts)
        rows = [self._of_word(word) for word in words]
        counts_W = np.fromiter(map(len, rows), np.int64, len(rows))
        return np.fromiter(chain.from_iterable(rows), self.dtype, int(counts_W.sum())), counts_W

    def _of_some(self, words: Sequence[str]) -> tuple[Array, Array]:
        lengths_W = np.fromiter(map(len, words), np.int64, len(words))
        long = np.flatnonzero(lengths_W > MAX_WORD_LENGTH).tolist()
        parts = [*words]
        for index in long:
            parts[index] = words[index][:MAX_WORD_LENGTH]
        symbols, counts_W = self._known()[0].split(parts)
        values, is_hard = self._values_of(symbols)
        if not long and not is_hard.any():
            return values, counts_W
        starts_W = starts_of(counts_W)
        is_easy_W = np.ones(len(words), bool)
        is_easy_W[long] = False
        is_easy_W[np.searchsorted(starts_W, np.flatnonzero(is_hard), side="right") - 1] = False
        hard = np.flatnonzero(~is_easy_W).tolist()
        rows = [self._of_word(words[index]) for index in hard]
        all_counts_W = counts_W.copy()
        all_counts_W[hard] = [len(row) for row in rows]
        all_starts_W = starts_of(all_counts_W)
        result = np.empty(all_counts_W.sum(), self.dtype)
        easy_counts = counts_W[is_easy_W]
        result[expand_slices(all_starts_W[is_easy_W], easy_counts)] = values[
            expand_slices(starts_W[is_easy_W], easy_counts)
        ]
        result[expand_slices(all_starts_W[hard], all_counts_W[hard])] = np.fromiter(
            chain.from_iterable(rows), self.dtype, sum(map(len, rows))
        )
        return result, all_counts_W

    def _values_of(self, symbols: Array) -> tuple[Array, Array]:
        """Return the value of each symbol, and whether ``of_word`` must split the words with this symbol."""
        vocabulary = self._bpe.vocabulary
        bpe, value_S, state_S = self._known()
        states = state_S[symbols]
        if not states.all():
            is_new_S = np.zeros(int(symbols.max()) + 1, bool)
            is_new_S[symbols[states == _NEW]] = True
            new = np.flatnonzero(is_new_S)
            pieces = bpe.pieces(new)
            new_states = np.full(len(new), _EASY, np.uint8)
            if vocabulary is not None:  # merged pieces that are not in the vocabulary are split again
                is_missing = np.fromiter((piece not in vocabulary for piece in pieces), bool, len(pieces))
                new_states[is_missing & (new < len(self._bpe.merges))] = _HARD
            # Another thread may use what this one writes: first the values, then the states that vouch for them.
            value_S[new] = np.fromiter(self._of_pieces(pieces), self.dtype, len(pieces))
            state_S[new] = new_states
            states = state_S[symbols]
        return value_S[symbols], states == _HARD

    def _known(self) -> tuple[BatchBPE, Array, Array]:
        """Return what splits words, and the value and the state of each symbol, computed or not.

        The state is _HARD if the words with the symbol must be split one at a time. All three are made together: two
        threads may make them at the same time, and either's are complete.
        """
        tables = self._tables
        if tables is None:
            bpe = BatchBPE(self._bpe)
            # Both start as pages that take no memory until they are written: most code points never occur.
            tables = bpe, np.empty(bpe.symbols, self.dtype), np.zeros(bpe.symbols, np.uint8)
            self._tables = tables
        return tables
