"""What is asked for of many words at once: the pieces of each, or their ids."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from xlm.tokenizer.bpe import BPE

if TYPE_CHECKING:
    from xlm.tokenizer.batch_arrays import Array
    from xlm.tokenizer.batch_bpe import BatchBPE

T = TypeVar("T")

_FEW = 256  # words, up to which one after the other is faster
_MOST = 1 << 16  # words that are split at once, so that the arrays stay small


class BatchWords(Generic[T]):
    """Gives the same for many words as ``of_word`` does for each, faster.

    Args:
        bpe: Splits words into pieces.
        tokens: The vocabulary.
        of_word: Returns what is asked for of one word.
        of_pieces: Returns what is asked for of each of many pieces.
        unknown: What is asked for of a piece of one character that is in no merge and not in the vocabulary; None if
            that depends on the character.
    """

    def __init__(
        self,
        bpe: BPE,
        tokens: Collection[str],
        *,
        of_word: Callable[[str], Sequence[T]],
        of_pieces: Callable[[Iterable[str]], Iterable[T]],
        unknown: T | None,
    ) -> None:
        self._bpe = bpe
        self._tokens = tokens
        self._of_word = of_word
        self._of_pieces = of_pieces
        self._unknown = unknown
        self._made: tuple[BatchBPE, Array, Array] | None = None

    @property
    def dtype(self) -> str:
        """That of the values: ids are numbers, pieces are objects."""
        return "object" if self._unknown is None else "int32"

    def __call__(self, words: Sequence[str]) -> tuple[Array, Array]:
        """Returns the values of words, one word after the other, and how many each word has.

        Args:
            words: Of at least one character each.

        Returns:
            (S,) and int64 (W,).
        """
        import numpy as np

        if self._bpe.learnt:
            self._made = self._made or self._make()
        if self._bpe.learnt and len(words) > _FEW:
            values, counts = zip(
                *(self._of_some(words[i : i + _MOST]) for i in range(0, len(words), _MOST)), strict=True
            )
            return np.concatenate(values), np.concatenate(counts)
        rows = [self._of_word(word) for word in words]
        counts_W = np.fromiter(map(len, rows), np.int64, len(rows))
        return np.fromiter(chain.from_iterable(rows), self.dtype, int(counts_W.sum())), counts_W

    def _of_some(self, words: Sequence[str]) -> tuple[Array, Array]:
        import numpy as np

        from xlm.tokenizer.batch_arrays import places_of_slices, starts_of
        from xlm.tokenizer.batch_bpe import LONGEST

        bpe, value_S, is_hard_S = self._made = self._made or self._make()
        long = [index for index, word in enumerate(words) if len(word) > LONGEST]
        symbols, counts_W = bpe.split([word[:LONGEST] for word in words] if long else words)
        values = value_S[symbols]
        is_hard = is_hard_S[symbols]
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
        result[places_of_slices(all_starts_W[is_easy_W], easy_counts)] = values[
            places_of_slices(starts_W[is_easy_W], easy_counts)
        ]
        result[places_of_slices(all_starts_W[hard], all_counts_W[hard])] = np.fromiter(
            chain.from_iterable(rows), self.dtype, sum(map(len, rows))
        )
        return result, all_counts_W

    def _make(self) -> tuple[BatchBPE, Array, Array]:
        """Returns the BPE, what is asked for of each symbol, and whether a word with that symbol is a hard one."""
        import numpy as np

        from xlm.tokenizer.batch_bpe import BatchBPE

        bpe = BatchBPE(self._bpe.merges, self._bpe.made, self._tokens)
        values: list[Any] = [*self._of_pieces(bpe.pieces[:-1]), self._unknown]
        is_hard_S = np.zeros(len(values), bool)
        is_hard_S[-1] = self._unknown is None
        if (vocabulary := self._bpe.vocabulary) is not None:  # such pieces are split again
            is_hard_S[: len(self._bpe.merges)] = [piece not in vocabulary for piece in self._bpe.made]
        return bpe, np.fromiter(values, self.dtype, len(values)), is_hard_S
