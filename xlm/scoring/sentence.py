"""The scores of one text: by token, by word of the raw text, and in total."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from xlm.tokenizer.tokenizer import XLMTokenizer

_WORD = re.compile(r"\S+")


@dataclass(frozen=True, kw_only=True, slots=True)
class WordScore:
    """A word of the raw text: the characters between whitespace, with attached punctuation.

    Attributes:
        text: The word as it stands in the raw text.
        start: Its first character in the raw text.
        end: One past its last character.
        tokens: How many tokens begin in it; 0 for a word of characters that the tokenizer drops.
        surprisal: Nats, the negative log-probability of those tokens together.
        unknown: Whether any of those tokens is ``<unk>``.
    """

    text: str
    start: int
    end: int
    tokens: int
    surprisal: float
    unknown: bool


@dataclass(frozen=True, kw_only=True)
class SentenceScore:
    """The scores of one text. The opening token is not predicted, so it is in none of the tuples.

    Attributes:
        text: The text as it was given.
        lang: Its language.
        tokens: The predicted tokens in ``</w>`` notation, n of them, the closing ``</s>`` included.
        ids: Their n ids.
        logprobs: Their n log-probabilities in nats, each given what stands before the token.
        ranks: Their n ranks among all words of the vocabulary, when asked for: 1 for the most likely one; words of
            equal probability share the best rank.
        entropies: The n entropies, in nats, of the predictions that they were judged by, when asked for.
        top: At each of the n places the most likely tokens with their log-probabilities in nats, best first, when asked
            for; tokens of equal probability in any order.
        windows: In how many windows the text was scored; 1 unless it is longer than the model's positions.
        unk_token: The token that stands for what the vocabulary lacks.
    """

    text: str
    lang: str
    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    ranks: tuple[int, ...] | None = None
    entropies: tuple[float, ...] | None = None
    top: tuple[tuple[tuple[str, float], ...], ...] | None = None
    windows: int = 1
    unk_token: str = "<unk>"
    _tokenizer: XLMTokenizer | None = field(default=None, repr=False, compare=False)

    @property
    def logprob(self) -> float:
        """Log-probability of the whole text in nats: the sum of ``logprobs``."""
        return math.fsum(self.logprobs)

    @property
    def unknowns(self) -> tuple[bool, ...]:
        """Whether each of the n tokens is ``<unk>``, even where the text itself spells it so."""
        return tuple([token == self.unk_token for token in self.tokens])

    @property
    def unknown(self) -> int:
        """Number of tokens that are ``<unk>``."""
        return self.tokens.count(self.unk_token)

    @cached_property
    def words(self) -> tuple[WordScore, ...]:
        """Words of the raw text in order; computed on first access, which takes longer than tokenising.

        The closing ``</s>`` belongs to no word: the words' surprisals and that of the last token are ``-logprob``.

        Raises:
            LanguageError: The language is divided by a library that does not say where its words come from.
        """
        assert self._tokenizer is not None
        numbers = self._tokenizer(self.text, lang=self.lang, return_offsets=True)["word_ids"][1:-1]
        matches = list(_WORD.finditer(self.text))
        tokens, surprisals, unknowns = [0] * len(matches), [0.0] * len(matches), [False] * len(matches)
        for number, logprob, unknown in zip(numbers, self.logprobs[:-1], self.unknowns[:-1], strict=True):
            tokens[number] += 1
            surprisals[number] -= logprob
            unknowns[number] |= unknown
        return tuple(
            WordScore(
                text=word.group(),
                start=word.start(),
                end=word.end(),
                tokens=count,
                surprisal=surprisal,
                unknown=unknown,
            )
            for word, count, surprisal, unknown in zip(matches, tokens, surprisals, unknowns, strict=True)
        )

    def __getstate__(self) -> dict[str, Any]:
        # With its words, a result needs no tokenizer, which would be pickled with every one.
        if self._tokenizer is None:
            return dict(self.__dict__)
        return {**self.__dict__, "words": self.words, "_tokenizer": None}
