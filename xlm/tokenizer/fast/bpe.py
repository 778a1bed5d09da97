"""Byte-pair encoding of one word, several times as fast as ``xlm.tokenizer.bpe`` if ``BPE.learnt`` is true."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat

from xlm.tokenizer.bpe import BPE, characters_of
from xlm.tokenizer.vocabulary import END_OF_WORD

_LONG_WORD = 100  # for words of at least this many characters, merging with a heap is faster
_WINDOW = 1 << 16  # longer words are merged in windows of this many characters
_OVERLAP = 64  # pieces at the end of a window that are merged again in the next window


class FastBPE:
    """Splits words into the same pieces as ``BPE``, and into their ids.

    Args:
        bpe: The plain implementation, whose results this class reproduces.
        ids: The id of each piece of the vocabulary.
        unk_id: The id of every other piece.
    """

    def __init__(self, bpe: BPE, ids: Mapping[str, int], unk_id: int) -> None:
        self._bpe = bpe
        self._ids = ids
        self._unk_id = unk_id

    def ids(self, word: str) -> tuple[int, ...]:
        """Return the ids of the pieces of a word."""
        return tuple(map(self._ids.get, self.split(word), repeat(self._unk_id)))

    def ids_of_pieces(self, pieces: Iterable[str]) -> Iterator[int]:
        """Return the id of each piece."""
        return map(self._ids.get, pieces, repeat(self._unk_id))

    def split(self, word: str) -> list[str]:
        """Return the pieces of a word, as ``BPE.split`` does."""
        bpe = self._bpe
        if not bpe.learnt:
            return bpe.split(word)
        if len(word) < _LONG_WORD:
            pieces = self._merge_short(word)
        else:
            pieces = bpe.merge(characters_of(word)) if len(word) <= _WINDOW else self._merge_windows(word)
        known = bpe.vocabulary
        if known is not None:
            for piece in pieces:
                if piece not in known:
                    return bpe.limit(pieces)
        return pieces

    def _merge_short(self, word: str) -> list[str]:
        # With learnt merges, a new pair always ranks after the merge that created it, so the leftmost of the best pairs
        # is always the next to merge. The time is quadratic in the length of the word, but for real words it is only a
        # fraction of the time that a heap takes.
        pieces = [*word[:-1], word[-1] + END_OF_WORD]
        rank_of, none = self._bpe.ranks.get, len(self._bpe.ranks)
        ranks = [rank_of(pair, none) for pair in zip(pieces, pieces[1:])]  # noqa: B905, RUF007 (the fastest way)
        while ranks:
            best = min(ranks)
            if best == none:
                break
            i = ranks.index(best)
            piece = pieces[i] = pieces[i] + pieces.pop(i + 1)
            del ranks[i]
            if i:
                ranks[i - 1] = rank_of((pieces[i - 1], piece), none)
            if i < len(ranks):
                ranks[i] = rank_of((piece, pieces[i + 1]), none)
        return pieces

    def _merge_windows(self, word: str) -> list[str]:
        # With learnt merges, a split of a word is correct if, for any two neighbouring pieces, merging only their
        # characters gives these two pieces again. So a word can be merged window by window, with little memory, if this
        # holds where two windows meet.
        pieces: list[str] = []
        interned: dict[str, str] = {}  # maps a piece to itself, so that all its occurrences are one str
        start = 0
        while True:
            kept = len(pieces)
            is_last = start + _WINDOW >= len(word)
            end = len(word) if is_last else start + _WINDOW
            window = self._merge_part(word, start, end)
            while pieces and not self._stay_apart(pieces[-1], window[0], ends=is_last and len(window) == 1):
                start -= len(pieces.pop())
                window = self._merge_part(word, start, end)
                if kept - len(pieces) > _OVERLAP:
                    # Merge the whole word at once, even if that takes much memory.
                    return self._bpe.merge(characters_of(word))
            if is_last:
                return pieces + window
            done = window[:-_OVERLAP]
            if not done:
                return self._bpe.merge(characters_of(word))
            pieces += (interned.setdefault(piece, piece) for piece in done)
            start += sum(map(len, done))

    def _merge_part(self, word: str, start: int, end: int) -> list[str]:
        return self._bpe.merge(characters_of(word[start:]) if end == len(word) else list(word[start:end]))

    def _stay_apart(self, left: str, right: str, *, ends: bool) -> bool:
        """Return whether merging only the characters of two neighbouring pieces gives these two pieces again."""
        characters = characters_of(right.removesuffix(END_OF_WORD)) if ends else list(right)
        return self._bpe.merge([*left, *characters]) == [left, right]
