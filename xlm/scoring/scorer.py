"""Scoring of windows of texts with a model, a tokenizer and options that are checked once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import torch

from xlm.errors import InputError, LanguageError, warn_caller
from xlm.model.lm import XLMWithLMHeadModel, check_forward, eval_mode
from xlm.scoring.logprobs import checked_stride, score_sequences, windows_of
from xlm.scoring.options import ScoringOptions
from xlm.scoring.sentence import SentenceScore
from xlm.tokenizer.tokenizer import XLMTokenizer

_PADDING = 128
"""The largest multiple to which vocabularies are usually padded; fewer embeddings than this may lack a token."""


class Scorer:
    """A model, its tokenizer, a language and options, checked together once; scores windows of texts.

    Args:
        model: A causal model.
        tokenizer: Its tokenizer.
        lang: Name of the language of the texts.
        options: The options; ``None`` for the defaults.

    Attributes:
        language: Id of the language; ``None`` for a model without language embeddings.
        options: The options, with the stride that is used.

    Raises:
        InputError: The model is bidirectional, no model or not the tokenizer's, or the stride is wrong for it.
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
                "a bidirectional model gives no next-word probabilities: it sees the word that it is to predict",
                where="model",
                found="causal = False",
                expected="a causal model",
                remedy="load it with causal=True, if it was trained as a causal model",
            )
        check_name_of_language(lang)
        options = ScoringOptions() if options is None else options
        stride = checked_stride(options.stride, model.config.max_position_embeddings)
        self.model = model
        self.tokenizer = tokenizer
        self.lang = lang
        self.language = _language_id(model, tokenizer, lang)
        self.options = dataclasses.replace(options, stride=stride)
        self._stride = stride

    @property
    def long_texts(self) -> str:
        """What is done with texts longer than the model's positions, as ``Signature.long`` says it."""
        return "refuse" if self.options.too_long == "refuse" else f"stride {self._stride}"

    def score_window(self, texts: Sequence[str], *, first: int = 0) -> list[SentenceScore | InputError]:
        """Return one result per text, in order; for a text that cannot be scored, the error that says why.

        Args:
            texts: Up to some thousand texts, encoded and scored together.
            first: Index of the first text in error messages.

        Raises:
            LanguageError: A language that the tokenizer does not have.
        """
        results: list[SentenceScore | InputError | None] = [None] * len(texts)
        encoded: dict[int, list[int]] = {}
        for i, text in enumerate(texts):
            try:
                encoded[i] = self.encode(text, where=f"texts[{first + i}]")
            except InputError as error:
                results[i] = error
        config = self.model.config
        untrained = config.bos_token_id if config.bos_token_id != config.eos_token_id else None
        if any(ids[0] == untrained for ids in encoded.values()):
            _warn_about_bos(self.tokenizer.bos_token)
        with eval_mode(self.model), torch.inference_mode():
            options = self.options
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
        words = self.tokenizer.vocabulary.tokens
        for (i, ids), of_tokens in zip(encoded.items(), scores, strict=True):
            windows = windows_of(0, len(ids) - 1, positions=config.max_position_embeddings, stride=self._stride)
            results[i] = SentenceScore(
                text=texts[i],
                lang=self.lang,
                tokens=tuple([words[index] for index in ids[1:]]),
                ids=tuple(ids[1:]),
                logprobs=of_tokens.logprobs,
                ranks=of_tokens.ranks,
                entropies=of_tokens.entropies,
                top=None if of_tokens.top is None else _as_tokens(of_tokens.top, words),
                windows=len(windows),
                unk_token=self.tokenizer.unk_token,
                _tokenizer=self.tokenizer,
            )
        return [result for result in results if result is not None]

    def encode(self, text: str, *, where: str) -> list[int]:
        """Return the ids of a text, with special tokens at both ends.

        Args:
            text: Any text.
            where: Name of the text in errors.

        Raises:
            InputError: Not a str, or too long and to be refused.
            LanguageError: A language that the tokenizer does not have.
        """
        config = self.model.config
        if not isinstance(text, str):
            raise InputError("a text is not a str", where=where, found=type(text).__name__, expected="str")
        ids = self.tokenizer.encode(text, lang=self.lang)
        if self.options.too_long == "refuse" and len(ids) - 1 > config.max_position_embeddings:
            raise InputError(
                "a text is longer than the model's positions",
                where=where,
                found=f"{len(ids) - 1} tokens, the closing one aside: {text[:40]!r}…",
                expected=f"at most {config.max_position_embeddings}",
                remedy="split it into sentences, which is what the model was trained on, or score it in windows",
            )
        return ids


def check_pair(model: object, tokenizer: object) -> None:
    """Check that these are a model and its tokenizer.

    Raises:
        InputError: They are swapped, are something else, the tokenizer has more tokens than the model, or scoring would
            not use the model's own ``forward``.
    """
    kinds = f"{type(model).__name__}, {type(tokenizer).__name__}"
    if isinstance(model, XLMTokenizer) and isinstance(tokenizer, torch.nn.Module):
        raise InputError(
            "the model and the tokenizer are swapped",
            where="model, tokenizer",
            found=kinds,
            expected="the model first, then its tokenizer",
        )
    model = getattr(model, "_orig_mod", model)  # inside what torch.compile returns
    if not isinstance(model, XLMWithLMHeadModel) or not isinstance(tokenizer, XLMTokenizer):
        raise InputError(
            "a model and its tokenizer are needed",
            where="model, tokenizer",
            found=kinds,
            expected="XLMWithLMHeadModel, XLMTokenizer",
            remedy="open both with from_pretrained",
        )
    check_forward(model, "scoring")
    words, tokens = model.config.vocab_size, tokenizer.vocab_size
    if tokens + _PADDING <= words:
        warn_caller(
            f"the tokenizer has {tokens:,} tokens and the model {words:,} words, the last of which have no text; "
            "make sure that the tokenizer belongs to this model"
        )
    if tokens > words:
        raise InputError(
            "the tokenizer has tokens that are not in the model's vocabulary",
            where="tokenizer",
            found=f"{tokens} tokens",
            expected=f"at most {words}",
            remedy="use the tokenizer that belongs to this model",
        )


def check_name_of_language(lang: object) -> None:
    """Check that a language is a name, or ``None`` for a model without languages.

    Raises:
        LanguageError: It is something else.
    """
    if lang is not None and not isinstance(lang, str):
        raise LanguageError("not a language", where="lang", found=repr(lang), expected="a str")


def _as_tokens(
    top: Iterable[Iterable[tuple[int, float]]], words: Sequence[str]
) -> tuple[tuple[tuple[str, float], ...], ...]:
    # A model may have more rows than its tokenizer has tokens.
    def name(index: int) -> str:
        return words[index] if index < len(words) else f"<{index}>"

    return tuple(tuple((name(index), logprob) for index, logprob in best) for best in top)


def _language_id(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, lang: str) -> int | None:
    config = model.config
    if config.lang2id:
        return config.language_id(lang)
    if not config.has_language_embeddings:
        return None
    # The model's file names no languages; the tokenizer's may.
    return config.language_id((tokenizer.lang2id or {}).get(lang, lang))


def _warn_about_bos(token: str) -> None:
    warn_caller(
        f"texts are scored behind {token}, as this tokenizer encodes them; the original never trained that token, and "
        "behind it the first words score much worse. For the sentences of the training, </s> … </s>: "
        "XLMTokenizer.from_pretrained(..., bos_token='</s>')"
    )
