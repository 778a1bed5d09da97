"""Byte-pair encoding of one word, several times as fast as ``xlm.tokenizer.bpe`` for merges that were learnt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat

from xlm.tokenizer.bpe import BPE, characters_of
from xlm.tokenizer.vocabulary import END_OF_WORD

_LONG_WORD = 100  # characters, from where quadratic time is slower
_WINDOW = 1 << 16  # characters of a very long word that are merged at once
_OVERLAP = 64  # pieces at the end of a window that are merged again in the next one


class FastBPE:
    """Splits words into the pieces that ``bpe`` splits them into, and into their ids.

    Args:
        bpe: The specification.
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
        # With learnt merges, whatever a merge makes possible ranks below it, so that the best pair furthest left is
        # the next to merge. Quadratic, and for real words several times as fast as a heap.
        pieces = [*word[:-1], word[-1] + END_OF_WORD]
        rank_of, none = self._bpe.ranks.get, len(self._bpe.ranks)
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

    def _merge_windows(self, word: str) -> list[str]:
        # With learnt merges, pieces are the right ones of a text if each two neighbours are the right ones of theirs.
        # So windows can be merged one after the other, where their pieces meet so; memory then stays small.
        pieces: list[str] = []
        same: dict[str, str] = {}  # one str for each piece, not for each occurrence
        start = 0
        while True:
            kept = len(pieces)
            is_last = start + _WINDOW >= len(word)
            end = len(word) if is_last else start + _WINDOW
            window = self._merge_part(word, start, end)
            while pieces and not self._meet(pieces[-1], window[0], ends=is_last and len(window) == 1):
                start -= len(pieces.pop())
                window = self._merge_part(word, start, end)
                if kept - len(pieces) > _OVERLAP:
                    return self._bpe.merge(characters_of(word))  # all at once, whatever memory it takes
            if is_last:
                return pieces + window
            done = window[:-_OVERLAP]
            if not done:
                return self._bpe.merge(characters_of(word))
            pieces += (same.setdefault(piece, piece) for piece in done)
            start += sum(map(len, done))

    def _merge_part(self, word: str, start: int, end: int) -> list[str]:
        return self._bpe.merge(characters_of(word[start:]) if end == len(word) else list(word[start:end]))

    def _meet(self, left: str, right: str, *, ends: bool) -> bool:
        """Return whether two pieces stay two where they are neighbours."""
        characters = characters_of(right.removesuffix(END_OF_WORD)) if ends else list(right)
        return self._bpe.merge([*left, *characters]) == [left, right]
