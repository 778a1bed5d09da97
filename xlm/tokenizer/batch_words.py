"""What is asked for of many words at once: the pieces of each, or their ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from xlm.tokenizer.bpe import BPE

if TYPE_CHECKING:
    from xlm.tokenizer.batch_bpe import Array, BatchBPE

T = TypeVar("T")

_FEW = 256  # words, up to which one after the other is faster


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
        tokens: Iterable[str],
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

    def __call__(self, words: Sequence[str]) -> Iterator[Sequence[T]]:
        """Returns what is asked for of each word.

        Args:
            words: Of at least one character each.
        """
        if not self._bpe.learnt or not words:
            return map(self._of_word, words)
        self._made = self._made or self._make()
        if len(words) <= _FEW:
            return map(self._of_word, words)
        return chain.from_iterable(self._of_some(words[i : i + (1 << 16)]) for i in range(0, len(words), 1 << 16))

    def _of_some(self, words: Sequence[str]) -> list[Sequence[T]]:
        import numpy as np

        from xlm.tokenizer.batch_bpe import LONGEST

        bpe, value_S, is_hard_S = self._made or self._make()
        long = [index for index, word in enumerate(words) if len(word) > LONGEST]
        symbols, counts_W = bpe.split([word[:LONGEST] for word in words] if long else words)
        ends_W = np.cumsum(counts_W)
        ends: list[int] = ends_W.tolist()
        values: tuple[T, ...] = tuple(value_S[symbols].tolist())
        result: list[Sequence[T]] = [values[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        hard = np.searchsorted(ends_W, np.flatnonzero(is_hard_S[symbols]), side="right")
        for index in {*long, *hard.tolist()}:
            result[index] = self._of_word(words[index])
        return result

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
        of_ints = isinstance(values[0], int)
        return bpe, np.array(values, np.int64 if of_ints else object), is_hard_S
