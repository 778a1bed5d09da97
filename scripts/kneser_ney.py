"""An n-gram model with interpolated modified Kneser-Ney smoothing over token ids, counted by sorting.

An n-gram is numbered by its place among the sorted n-grams of its length, so that a longer one is a pair of two
numbers, that of its prefix and its last token, and fits an int64 whatever the order. Eighteen million tokens take a
minute or two and about 2 GB.

Source: Chen & Goodman 1998, An Empirical Study of Smoothing Techniques for Language Modeling, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Ints = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]

_USUAL_DISCOUNTS = (0.5, 1.0, 1.5)
"""Where a text is too small to estimate them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Order:
    """All n-grams of one length.

    Attributes:
        codes: Sorted; number of the prefix times the size of the vocabulary, plus the last token.
        discounted: The count of each, less its discount.
        totals: The sum of the counts, by prefix; 0 where nothing followed it.
        freed: The share of that sum which the discounts took and the shorter context hands out, by prefix.
    """

    codes: Ints
    discounted: Floats
    totals: Floats
    freed: Floats


class KneserNey:
    """The model.

    Args:
        ids: (N,) the sentences of the training text one behind the other, each with its closing ``</s>``.
        vocab_size: Tokens in the vocabulary; every one gets some probability.
        order: Tokens of the longest n-gram, at least 2.
        eos_id: Id of ``</s>``.
        across_sentences: Whether contexts reach over ``</s>`` into the sentence before. Otherwise ``</s>`` is all
            that the first token of a sentence is predicted from.
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
        # Of the n-gram that ends at each place, with one token to begin with: its number, and all numbers' codes.
        numbers = text
        codes = np.arange(vocab_size, dtype=np.int64)
        counts = np.bincount(text[1:], minlength=vocab_size)
        for length in range(2, order + 1):
            places = np.flatnonzero(context >= length - 1)
            if not len(places):
                break  # no sentence is that long
            longer = _number(numbers[places - 1] * vocab_size + text[places])
            # A shorter n-gram counts once for every token that precedes it somewhere. What nothing can precede, since
            # it begins the sentence, counts as often as it stands there.
            preceded = np.bincount(numbers[places[longer.first]], minlength=len(codes))
            adjusted = np.where(preceded > 0, preceded, counts)
            self._orders.append(_smoothed(codes, adjusted, vocab_size, _prefixes(self._orders)))
            numbers = np.full(len(text), -1, np.int64)
            numbers[places] = longer.numbers
            codes, counts = longer.codes, longer.counts
        self._orders.append(_smoothed(codes, counts, vocab_size, _prefixes(self._orders)))

    def log_probabilities(self, ids: np.ndarray[Any, Any]) -> Floats:
        """Natural logarithm of the probability of each token.

        Args:
            ids: (N,) sentences, as in training.

        Returns:
            (N,), the closing ``</s>`` included.
        """
        text = self._with_start(ids)
        context = self._contexts(text)
        first = self._orders[0]
        found = (first.discounted / first.totals[0])[text] + first.freed[0] / self.vocab_size
        numbers = text
        for length, order in enumerate(self._orders[1:], start=2):
            places = np.flatnonzero(context >= length - 1)
            prefixes = numbers[places - 1]
            places, prefixes = places[prefixes >= 0], prefixes[prefixes >= 0]
            codes = prefixes * self.vocab_size + text[places]
            at = np.minimum(np.searchsorted(order.codes, codes), len(order.codes) - 1)
            known = order.codes[at] == codes
            followed = order.totals[prefixes] > 0
            new = found[places] * order.freed[prefixes]
            new[known] += order.discounted[at[known]] / order.totals[prefixes[known]]
            found[places[followed]] = new[followed]
            numbers = np.full(len(text), -1, np.int64)
            numbers[places[known]] = at[known]
        log_probabilities: Floats = np.log(found[1:])
        return log_probabilities

    def _with_start(self, ids: np.ndarray[Any, Any]) -> Ints:
        """The text behind the ``</s>`` that its first token is predicted from."""
        return np.concatenate([[self.eos_id], ids]).astype(np.int64)

    def _contexts(self, text: Ints) -> Ints:
        """How many of the tokens before each place may count for it."""
        places = np.arange(len(text))
        if self.across_sentences:
            return places
        starts = np.maximum.accumulate(np.where(text == self.eos_id, places, 0))
        return np.concatenate([[0], places[1:] - starts[:-1]])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Numbered:
    codes: Ints  # sorted, each once
    counts: Ints
    first: Ints  # a place of each in what was numbered
    numbers: Ints  # of every place


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
    """How many contexts the next longer n-grams can have."""
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
    """What is taken from a count of 1, of 2, and of 3 or more."""
    n = np.bincount(np.minimum(counts, 5), minlength=6).astype(float)
    if n[1:5].min() == 0:
        return _USUAL_DISCOUNTS
    y = n[1] / (n[1] + 2 * n[2])
    one, two, three = (k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3))
    return (one, two, three) if 0 < one < 1 and 0 < two < 2 and 0 < three < 3 else _USUAL_DISCOUNTS
