"""An n-gram model with interpolated modified Kneser-Ney smoothing over token ids, counted by sorting.

The number of an n-gram is its position among the sorted n-grams of its length. A longer n-gram is then a pair of
numbers, that of its prefix and its last token, and fits an int64 for any order. Eighteen million tokens take a minute
or two and about 2 GB.

Source: Chen & Goodman 1998, An Empirical Study of Smoothing Techniques for Language Modeling, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Ints = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]

_USUAL_DISCOUNTS = (0.5, 1.0, 1.5)
"""For texts that are too small to estimate discounts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Order:
    """All n-grams of one length.

    Attributes:
        codes: Sorted; number of the prefix times the size of the vocabulary, plus the last token.
        discounted: Count of each n-gram, minus its discount.
        totals: Sum of the counts, by prefix; 0 if nothing followed it.
        freed: Share of that sum that the discounts took and the shorter context distributes, by prefix.
    """

    codes: Ints
    discounted: Floats
    totals: Floats
    freed: Floats


class KneserNey:
    """An n-gram model.

    Args:
        ids: (N,) the sentences of the training text one after another, each with its closing ``</s>``.
        vocab_size: Number of tokens in the vocabulary; every token gets some probability.
        order: Number of tokens in the longest n-gram, at least 2.
        eos_id: Id of ``</s>``.
        across_sentences: Whether contexts reach across ``</s>`` into the previous sentence. Otherwise, the first
            token of a sentence is predicted from ``</s>`` alone.
    """

    def __init__(
        self, ids: np.ndarray[Any, Any], *, vocab_size: int, order: int, eos_id: int, across_sentences: bool
    ) -> None:
        assert order >= 2, order
        self.vocab_size = vocab_size
        self.eos_id = eos_id
        self.across_sentences = across_sentences
        text = self._with_start(ids)
        context = self._contexts(text)
        self._orders: list[_Order] = []
        # For the n-gram that ends at each position (initially one token): its number, and the codes of all numbers.
        numbers = text
        codes = np.arange(vocab_size, dtype=np.int64)
        counts = np.bincount(text[1:], minlength=vocab_size)
        for length in range(2, order + 1):
            places = np.flatnonzero(context >= length - 1)
            if not len(places):
                break  # longer than every sentence
            longer = _number(numbers[places - 1] * vocab_size + text[places])
            # A shorter n-gram counts once for each distinct token that precedes it. At the start of a sentence, where
            # nothing can precede it, every occurrence counts.
            preceded = np.bincount(numbers[places[longer.first]], minlength=len(codes))
            adjusted = np.where(preceded > 0, preceded, counts)
            self._orders.append(_smoothed(codes, adjusted, vocab_size, _prefixes(self._orders)))
            numbers = np.full(len(text), -1, np.int64)
            numbers[places] = longer.numbers
            codes, counts = longer.codes, longer.counts
        self._orders.append(_smoothed(codes, counts, vocab_size, _prefixes(self._orders)))

    def log_probabilities(self, ids: np.ndarray[Any, Any]) -> Floats:
        """Return the natural logarithm of the probability of each token.

        Args:
            ids: (N,) sentences, as in training.

        Returns:
            (N,), including the closing ``</s>``.
        """
        text = self._with_start(ids)
        context = self._contexts(text)
        first = self._orders[0]
        probabilities = (first.discounted / first.totals[0])[text] + first.freed[0] / self.vocab_size
        numbers = text
        for length, order in enumerate(self._orders[1:], start=2):
            places = np.flatnonzero(context >= length - 1)
            prefixes = numbers[places - 1]
            places, prefixes = places[prefixes >= 0], prefixes[prefixes >= 0]
            codes = prefixes * self.vocab_size + text[places]
            at = np.minimum(np.searchsorted(order.codes, codes), len(order.codes) - 1)
            known = order.codes[at] == codes
            followed = order.totals[prefixes] > 0
            new = probabilities[places] * order.freed[prefixes]
            new[known] += order.discounted[at[known]] / order.totals[prefixes[known]]
            probabilities[places[followed]] = new[followed]
            numbers = np.full(len(text), -1, np.int64)
            numbers[places[known]] = at[known]
        log_probabilities: Floats = np.log(probabilities[1:])
        return log_probabilities

    def _with_start(self, ids: np.ndarray[Any, Any]) -> Ints:
        """Return the text after the ``</s>`` that its first token is predicted from."""
        return np.concatenate([[self.eos_id], ids]).astype(np.int64)

    def _contexts(self, text: Ints) -> Ints:
        """Return how many of the preceding tokens each position may use."""
        places = np.arange(len(text))
        if self.across_sentences:
            return places
        starts = np.maximum.accumulate(np.where(text == self.eos_id, places, 0))
        return np.concatenate([[0], places[1:] - starts[:-1]])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Numbered:
    codes: Ints  # sorted and distinct
    counts: Ints
    first: Ints  # one position of each distinct n-gram
    numbers: Ints  # for every position


def _number(values: Ints) -> _Numbered:
    order = np.argsort(values)
    ordered = values[order]
    begins = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    numbers = np.empty(len(values), np.int64)
    numbers[order] = np.cumsum(begins) - 1
    edges = np.flatnonzero(begins)
    counts = np.diff(edges, append=len(values))
    return _Numbered(codes=ordered[edges], counts=counts, first=order[edges], numbers=numbers)


def _prefixes(orders: list[_Order]) -> int:
    """Return the number of contexts that the next longer n-grams can have."""
    return len(orders[-1].codes) if orders else 1


def _smoothed(codes: Ints, counts: Ints, vocab_size: int, contexts: int) -> _Order:
    discounts = np.concatenate([[0.0], _discounts(counts)])[np.minimum(counts, 3)]
    prefixes = codes // vocab_size
    totals = np.bincount(prefixes, counts, minlength=contexts).astype(np.float64)
    freed = np.bincount(prefixes, discounts, minlength=contexts)
    return _Order(
        codes=codes, discounted=counts - discounts, totals=totals, freed=freed / np.where(totals > 0, totals, 1)
    )


def _discounts(counts: Ints) -> tuple[float, float, float]:
    """Return the discounts of the counts 1, 2, and 3 or more."""
    n = np.bincount(np.minimum(counts, 5), minlength=6).astype(float)
    if n[1:5].min() == 0:
        return _USUAL_DISCOUNTS
    y = n[1] / (n[1] + 2 * n[2])
    one, two, three = (k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3))
    return (one, two, three) if 0 < one < 1 and 0 < two < 2 and 0 < three < 3 else _USUAL_DISCOUNTS
