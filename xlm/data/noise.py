"""Noise for denoising auto-encoding: shuffle, drop and blank the tokens of sentences.

Every step works on tokens, not on words, so the pieces of a word are noised one by one, as in the original.

Shapes: B sentences, T tokens in the longest one.

Source: paper section 4.3 through Lample et al. 2018; the original's ``add_noise`` in ``src/trainer.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from xlm.data.sentences import Ids, padded


class RandomNumbers(Protocol):
    """A source of random numbers. ``xlm.data.batches.RawNumbers`` has the same numbers in every version of numpy."""

    def random(self, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return numbers that are at least 0 and less than 1."""

    def integers(self, low: int, high: int) -> int:
        """Return a whole number from ``low`` to ``high`` - 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """How strongly to noise sentences.

    Attributes:
        word_shuffle: Tokens move by fewer than this many places. 0 turns shuffling off; other values must be above 1.
        word_dropout: Probability of dropping a token.
        word_blank: Probability of replacing a token with the mask.
        mask_id: Id of the mask, ``<special1>``.
        pad_id: Id of ``<pad>``.
    """

    word_shuffle: float = 3.0
    word_dropout: float = 0.1
    word_blank: float = 0.1
    mask_id: int = 5
    pad_id: int = 2

    def apply(self, ids_BT: Ids, lengths_B: Ids, numbers: RandomNumbers) -> tuple[Ids, Ids]:
        """Return noised sentences, padded on the right, and their lengths.

        The ``</s>`` at both ends stay in place. A sentence that has other tokens keeps at least one of them.

        Args:
            ids_BT: (B, T) int64 sentences from ``</s>`` to ``</s>``, padded on the right.
            lengths_B: (B,) int64 lengths, which include both ``</s>``.
            numbers: Source of random numbers, which are drawn in the same order as in the original.
        """
        ids_BT, lengths_B = self.shuffle(ids_BT, lengths_B, numbers)
        ids_BT, lengths_B = self.drop(ids_BT, lengths_B, numbers)
        return self.blank(ids_BT, lengths_B, numbers)

    def shuffle(self, ids_BT: Ids, lengths_B: Ids, numbers: RandomNumbers) -> tuple[Ids, Ids]:
        """Return sentences whose tokens moved by less than ``word_shuffle`` places."""
        if self.word_shuffle == 0:
            return ids_BT, lengths_B
        B, T = ids_BT.shape
        key_BT = np.arange(T, dtype=np.float64)[None].repeat(B, 0)
        key_BT[:, :-1] += self.word_shuffle * numbers.random((T - 1, B)).T
        key_BT[:, 0] = -1
        key_BT[np.arange(T) >= lengths_B[:, None] - 1] = np.inf  # the last </s> and the padding stay where they are
        return np.take_along_axis(ids_BT, key_BT.argsort(1, kind="stable"), 1), lengths_B

    def drop(self, ids_BT: Ids, lengths_B: Ids, numbers: RandomNumbers) -> tuple[Ids, Ids]:
        """Return sentences with some tokens dropped."""
        if self.word_dropout == 0:
            return ids_BT, lengths_B
        B, T = ids_BT.shape
        kept_BT = np.ones((B, T), bool)
        kept_BT[:, :-1] = numbers.random((T - 1, B)).T >= self.word_dropout
        kept_BT[:, 0] = True
        sentences = []
        for row, length, kept in zip(ids_BT, lengths_B, kept_BT, strict=True):
            kept[length - 1] = True
            if length > 2 and not kept[1 : length - 1].any():
                kept[numbers.integers(1, int(length) - 1)] = True
            sentences.append(row[:length][kept[:length]])
        return padded(sentences, pad_id=self.pad_id)

    def blank(self, ids_BT: Ids, lengths_B: Ids, numbers: RandomNumbers) -> tuple[Ids, Ids]:
        """Return sentences with some tokens replaced by the mask."""
        if self.word_blank == 0:
            return ids_BT, lengths_B
        B, T = ids_BT.shape
        blank_BT = np.zeros((B, T), bool)
        blank_BT[:, :-1] = numbers.random((T - 1, B)).T < self.word_blank
        blank_BT[:, 0] = False
        blank_BT[np.arange(T) >= lengths_B[:, None] - 1] = False
        return np.where(blank_BT, self.mask_id, ids_BT), lengths_B
