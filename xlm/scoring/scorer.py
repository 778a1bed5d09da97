"""``Scorer``, which scores sentences, and the results that it returns."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from xlm.errors import InputError, LanguageError, warn_caller
from xlm.model.lm import XLMWithLMHeadModel, check_forward, eval_mode
from xlm.scoring.display import words_as_html
from xlm.scoring.logprobs import checked_stride, score_sequences
from xlm.scoring.options import ScoringOptions
from xlm.tokenizer.tokenizer import XLMTokenizer
from xlm.tokenizer.vocabulary import check_vocabulary_size

_WORD = re.compile(r"\S+")


@dataclass(frozen=True, kw_only=True, slots=True)
class WordScore:
    """A word of the raw text: the characters between whitespace, with attached punctuation.

    Attributes:
        text: The word.
        start: Index of its first character in the raw text.
        end: One past its last character.
        tokens: Number of tokens that begin in the word; 0 if the tokenizer drops all of its characters.
        surprisal: Negative log-probability of those tokens together, in nats.
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
    """The scores of one text. The opening token is not predicted, so none of the tuples has an entry for it.

    Attributes:
        text: The raw text.
        lang: Its language.
        tokens: The n predicted tokens in ``</w>`` notation, including the closing ``</s>``.
        ids: Their n ids.
        logprobs: Their n log-probabilities in nats, each given the tokens before it.
        ranks: Their n ranks in the vocabulary, if requested; 1 is the most likely token, and tokens of equal
            probability share the best rank.
        entropies: The n entropies of the predictions in nats, if requested.
        top: The most likely tokens at each of the n positions with their log-probabilities in nats, best first, if
            requested. Tokens of equal probability come in any order.
        windows: Number of windows that the text was scored in; 1 unless it is longer than the model's positions.
        unk_token: The token that replaces pieces outside the vocabulary.
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
        """Whether each of the n tokens is ``<unk>``, including an ``<unk>`` that the text itself contains."""
        return tuple([token == self.unk_token for token in self.tokens])

    @property
    def unknown(self) -> int:
        """Number of tokens that are ``<unk>``."""
        return self.tokens.count(self.unk_token)

    @cached_property
    def words(self) -> tuple[WordScore, ...]:
        """Words of the raw text in order. They are computed on first access, which takes longer than tokenising.

        The closing ``</s>`` belongs to no word: the surprisals of the words and of the last token add up to
        ``-logprob``.

        Raises:
            LanguageError: The library that splits the language into words does not report their offsets.
        """
        assert self._tokenizer is not None
        indices = self._tokenizer(self.text, lang=self.lang, return_offsets=True)["word_ids"][1:-1]
        matches = list(_WORD.finditer(self.text))
        tokens, surprisals, unknowns = [0] * len(matches), [0.0] * len(matches), [False] * len(matches)
        for index, logprob, unknown in zip(indices, self.logprobs[:-1], self.unknowns[:-1], strict=True):
            tokens[index] += 1
            surprisals[index] -= logprob
            unknowns[index] |= unknown
        return tuple(
            WordScore(
                text=match.group(),
                start=match.start(),
                end=match.end(),
                tokens=count,
                surprisal=surprisal,
                unknown=unknown,
            )
            for match, count, surprisal, unknown in zip(matches, tokens, surprisals, unknowns, strict=True)
        )

    def _repr_html_(self) -> str:
        """Return the text with coloured words, which notebooks show."""
        return words_as_html(self)

    def __getstate__(self) -> dict[str, Any]:
        # Pickle the words instead of the tokenizer, which would otherwise be pickled with each result.
        if self._tokenizer is None:
            return dict(self.__dict__)
        return {**self.__dict__, "words": self.words, "_tokenizer": None}


class Scorer:
    """Scores groups of texts with one model, tokenizer, language and set of options, which it checks when created.

    Args:
        model: A causal model.
        tokenizer: Its tokenizer.
        lang: Name of the language of the texts.
        options: The options; ``None`` for the defaults.

    Attributes:
        language: Id of the language; ``None`` for a model without language embeddings.
        options: The options, with the default stride filled in.

    Raises:
        InputError: The model is bidirectional, ``model`` and ``tokenizer`` are not a model and its tokenizer, or the
            stride is larger than the model's positions.
        LanguageError: The model does not have the language.
    """

    def __init__(
        self,
        model: XLMWithLMHeadModel,
        tokenizer: XLMTokenizer,
        *,
        lang: str,
        options: ScoringOptions | None = None,
    ) -> None:
        check_pair(model, tokenizer)
        if not model.config.causal:
            raise InputError(
                "a bidirectional model gives no next-word probabilities: it sees the word that it predicts",
                where="model",
                found="causal = False",
                expected="a causal model",
                remedy="load it with causal=True, if it was trained as a causal model",
            )
        check_language_name(lang)
        options = ScoringOptions() if options is None else options
        stride = checked_stride(options.stride, model.config.max_position_embeddings)
        self.model = model
        self.tokenizer = tokenizer
        self.lang = lang
        self.language = _language_id(model, tokenizer, lang)
        self.options = dataclasses.replace(options, stride=stride)

    @property
    def long_texts(self) -> str:
        """How texts longer than the model's positions are scored, as in ``Signature.long``."""
        return "refuse" if self.options.too_long == "refuse" else f"stride {self.options.stride}"

    def score_window(self, texts: Sequence[str], *, first: int = 0) -> list[SentenceScore | InputError]:
        """Return one result per text, in order: its scores, or the error that prevents scoring.

        Args:
            texts: Up to a few thousand texts, which are encoded and scored together.
            first: Index of the first text in error messages.

        Raises:
            LanguageError: The tokenizer does not have the language.
        """
        results: list[SentenceScore | InputError | None] = [None] * len(texts)
        encoded: dict[int, list[int]] = {}
        for i, text in enumerate(texts):
            try:
                encoded[i] = self.encode(text, where=f"texts[{first + i}]")
            except InputError as error:
                results[i] = error
        config, options = self.model.config, self.options
        untrained = config.bos_token_id if config.bos_token_id != config.eos_token_id else None
        if any(ids[0] == untrained for ids in encoded.values()):
            _warn_about_bos(self.tokenizer.bos_token)
        with eval_mode(self.model), torch.inference_mode():
            scores = score_sequences(
                self.model,
                list(encoded.values()),
                self.language,
                stride=options.stride,
                batch_tokens=options.batch_tokens,
                batch_size=options.batch_size,
                ranks=options.ranks,
                entropies=options.entropies,
                top=options.top,
            )
        vocabulary = self.tokenizer.vocabulary.tokens
        for (i, ids), token_scores in zip(encoded.items(), scores, strict=True):
            results[i] = SentenceScore(
                text=texts[i],
                lang=self.lang,
                tokens=tuple([vocabulary[index] for index in ids[1:]]),
                ids=tuple(ids[1:]),
                logprobs=token_scores.logprobs,
                ranks=token_scores.ranks,
                entropies=token_scores.entropies,
                top=None if token_scores.top is None else _as_tokens(token_scores.top, vocabulary),
                windows=token_scores.windows,
                unk_token=self.tokenizer.unk_token,
                _tokenizer=self.tokenizer,
            )
        return [result for result in results if result is not None]

    def encode(self, text: str, *, where: str) -> list[int]:
        """Return the ids of a text, with special tokens at both ends.

        Args:
            text: Any text.
            where: Name of the text in error messages.

        Raises:
            InputError: The text is not a str, or is too long and ``too_long`` is ``"refuse"``.
            LanguageError: The tokenizer does not have the language.
        """
        if not isinstance(text, str):
            raise InputError("a text is not a str", where=where, found=type(text).__name__, expected="str")
        ids = self.tokenizer.encode(text, lang=self.lang)
        positions = self.model.config.max_position_embeddings
        if self.options.too_long == "refuse" and len(ids) - 1 > positions:
            raise InputError(
                "a text is longer than the model's positions",
                where=where,
                found=f"{len(ids) - 1} tokens, not counting the closing one: {text[:40]!r}…",
                expected=f"at most {positions}",
                remedy="split it into sentences, which is what the model was trained on, or score it in windows",
            )
        return ids


def check_pair(model: object, tokenizer: object) -> None:
    """Check that the arguments are a model and its tokenizer.

    Raises:
        InputError: The arguments are swapped or of other types, the tokenizer has more tokens than the model, or the
            model overrides ``forward``, which scoring would not call.
    """
    types = f"{type(model).__name__}, {type(tokenizer).__name__}"
    if isinstance(model, XLMTokenizer) and isinstance(tokenizer, torch.nn.Module):
        raise InputError(
            "the model and the tokenizer are swapped",
            where="model, tokenizer",
            found=types,
            expected="the model first, then its tokenizer",
        )
    model = getattr(model, "_orig_mod", model)  # the model inside the result of torch.compile
    if not isinstance(model, XLMWithLMHeadModel) or not isinstance(tokenizer, XLMTokenizer):
        raise InputError(
            "a model and its tokenizer are needed",
            where="model, tokenizer",
            found=types,
            expected="XLMWithLMHeadModel, XLMTokenizer",
            remedy="open both with from_pretrained",
        )
    check_forward(model, "scoring")
    check_vocabulary_size(tokenizer.vocab_size, model.config.vocab_size)


def check_language_name(lang: object) -> None:
    """Raise ``LanguageError`` unless a language is a str, or ``None`` for a model without languages."""
    if lang is not None and not isinstance(lang, str):
        raise LanguageError("not a language", where="lang", found=repr(lang), expected="a str")


def _as_tokens(
    top: Iterable[Iterable[tuple[int, float]]], vocabulary: Sequence[str]
) -> tuple[tuple[tuple[str, float], ...], ...]:
    # The model's vocabulary may be larger than the tokenizer's.
    def name(index: int) -> str:
        return vocabulary[index] if index < len(vocabulary) else f"<{index}>"

    return tuple(tuple((name(index), logprob) for index, logprob in best) for best in top)


def _language_id(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, lang: str) -> int | None:
    config = model.config
    if config.lang2id:
        return config.language_id(lang)
    if not config.has_language_embeddings:
        return None
    # The model's file does not name its languages, so use the names in the tokenizer's file, if it has any.
    return config.language_id((tokenizer.lang2id or {}).get(lang, lang))


def _warn_about_bos(token: str) -> None:
    warn_caller(
        f"texts are scored after {token}, as this tokenizer encodes them; the original never trained that token, and "
        "the first words after it score much worse. For sentences as in training, </s> … </s>, open the tokenizer with "
        "XLMTokenizer.from_pretrained(..., bos_token='</s>')"
    )
