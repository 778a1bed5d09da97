"""Texts to the log-probability of each of their tokens, a list at once or a corpus as a stream."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from xlm.errors import InputError, XLMWarning
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.modes import evaluating
from xlm.scoring.frames import frame_of, is_frame
from xlm.scoring.logprobs import score_sequences
from xlm.scoring.read_ahead import read_ahead
from xlm.scoring.sentence import SentenceScore
from xlm.scoring.windows import checked_stride, windows_of
from xlm.tokenizer.tokenizer import XLMTokenizer

TOO_LONG = ("windows", "refuse")
"""What to do with a text that is longer than the model's positions."""


def score(
    model: XLMWithLMHeadModel,
    tokenizer: XLMTokenizer,
    texts: Iterable[str],
    *,
    lang: str,
    batch_size: int | None = None,
    batch_tokens: int | None = None,
    ranks: bool = False,
    entropies: bool = False,
    top: int = 0,
    too_long: str = "windows",
    stride: int | None = None,
) -> list[SentenceScore]:
    """The log-probability of every token of some texts, one result a text, in their order.

    Each text is one sentence to the model: it is encoded with the tokenizer's special tokens at both ends, starts at
    position 0 and sees no other text. Texts of one length share a batch; what a text gets does not depend on the
    others, up to rounding in the type that the model computes in. The logits and the log-softmax are computed in
    float32, without dropout; each module of the model is afterwards in the mode it was in before.

    Args:
        model: A causal model.
        tokenizer: The tokenizer that belongs to it.
        texts: Raw texts. An empty text scores its closing ``</s>``. For a ``Series`` or ``DataFrame`` of pandas the
            result is what ``score_frame`` gives, by sentence.
        lang: Name of the language of all of them.
        batch_size: Most texts of a batch; ``None`` for as many as ``batch_tokens`` allows.
        batch_tokens: Most tokens of a batch; ``None`` for 1,024 on a CPU and 32,768 elsewhere.
        ranks: Also give the rank of each token.
        entropies: Also give the entropy of each prediction.
        top: Also give this many of the most likely tokens at each place, with their log-probabilities.
        too_long: A text longer than the model's positions, counted in tokens with the opening one and without the
            closing one, is scored in overlapping windows (``"windows"``) or refused (``"refuse"``). The first window
            begins at the opening token and is as long as the model allows; each next one scores ``stride`` tokens
            more and is filled with the text before them, without an opening token.
        stride: From 1, which gives every token the longest context and takes longest, to the model's positions;
            ``None`` for half of them.

    Raises:
        InputError: ``texts`` is a single str, one of them is not a str, too long or not of this model's vocabulary
            (the message names its index), the model is bidirectional, or an option is none of those.
        LanguageError: A language that the model does not have.

    Source: paper section 3.2 (CLM); the original's ``EncoderDecoderEvaluator.evaluate_clm``, one sentence at a time.
    """
    scorer = Scorer(
        model,
        tokenizer,
        lang=lang,
        batch_size=batch_size,
        batch_tokens=batch_tokens,
        ranks=ranks,
        entropies=entropies,
        top=top,
        too_long=too_long,
        stride=stride,
    )
    if is_frame(texts):
        return frame_of(texts, lambda column: list(_stream(scorer, column)))  # type: ignore[no-any-return]
    return list(_stream(scorer, texts))


def score_stream(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, texts: Iterable[str], *, lang: str, **options: Any
) -> Iterator[SentenceScore]:
    """The same as ``score``, for corpora: results come while texts are still read, in order and in bounded memory.

    Up to 4,096 texts or about a million characters are read before the first of them is scored.

    Args:
        model: As for ``score``.
        tokenizer: As for ``score``.
        texts: As for ``score``; read as results are taken.
        lang: As for ``score``.
        **options: As for ``score``.

    Raises:
        InputError: As for ``score``; what a single text causes, after the results of those before it.
        LanguageError: A language that the model does not have.
    """
    return _stream(Scorer(model, tokenizer, lang=lang, **options), texts)


class Scorer:
    """A model and a tokenizer with the options of ``score``, for callers that decide themselves what is read ahead.

    Attributes:
        language: Id of the language; ``None`` for a model without language embeddings.
        batching: The limits of batches, as ``score_sequences`` takes them.
        stride: The stride that is used.

    Raises:
        InputError: The model is bidirectional, or an option is none of ``score``'s.
        LanguageError: A language that the model does not have.
    """

    def __init__(
        self,
        model: XLMWithLMHeadModel,
        tokenizer: XLMTokenizer,
        *,
        lang: str,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        ranks: bool = False,
        entropies: bool = False,
        top: int = 0,
        too_long: str = "windows",
        stride: int | None = None,
    ) -> None:
        if not model.config.causal:
            raise InputError(
                "a bidirectional model gives no next-word probabilities: it sees the word that it is to predict",
                where="model",
                found="causal = False",
                expected="a causal model",
                remedy="load it with causal=True, if it was trained as a causal model",
            )
        if too_long not in TOO_LONG:
            raise InputError(
                "no such way with long texts", where="too_long", found=repr(too_long), expected=" or ".join(TOO_LONG)
            )
        for name, limit in (("batch_size", batch_size), ("batch_tokens", batch_tokens)):
            if limit is not None and (type(limit) is not int or limit < 1):
                raise InputError("the size of batches is wrong", where=name, found=repr(limit), expected="1 or more")
        if type(top) is not int or top < 0:
            raise InputError("the number of alternatives is wrong", where="top", found=repr(top), expected="0 or more")
        self.model = model
        self.tokenizer = tokenizer
        self.lang = lang
        self.stride = checked_stride(stride, model.config.max_position_embeddings)
        self.too_long = too_long
        self.language = _language_id(model, tokenizer, lang)
        self.batching: dict[str, Any] = {"batch_size": batch_size, "batch_tokens": batch_tokens}
        self._options = {
            **self.batching,
            "stride": self.stride,
            "ranks": ranks,
            "entropies": entropies,
            "top": top,
        }

    def score_window(self, texts: Sequence[str], *, first: int = 0) -> list[SentenceScore | InputError]:
        """One result a text, in order; for a text that cannot be scored, the error that says why.

        Args:
            texts: Some thousand texts: they are encoded and scored together.
            first: Index of the first of them, which errors count from.

        Raises:
            LanguageError: A language that the tokenizer does not have.
        """
        found: list[SentenceScore | InputError | None] = [None] * len(texts)
        encoded: dict[int, list[int]] = {}
        for i, text in enumerate(texts):
            try:
                encoded[i] = self.encode(text, where=f"texts[{first + i}]")
            except InputError as error:
                found[i] = error
        config = self.model.config
        untrained = config.bos_token_id if config.bos_token_id != config.eos_token_id else None
        if any(ids[0] == untrained for ids in encoded.values()):
            _warn_about_bos(self.tokenizer.bos_token)
        with evaluating(self.model), torch.inference_mode():
            scores = score_sequences(self.model, list(encoded.values()), self.language, **self._options)
        words = self.tokenizer.vocabulary.tokens
        for (i, ids), of_tokens in zip(encoded.items(), scores, strict=True):
            windows = windows_of(0, len(ids) - 1, positions=config.max_position_embeddings, stride=self.stride)
            found[i] = SentenceScore(
                text=texts[i],
                lang=self.lang,
                tokens=tuple([words[index] for index in ids[1:]]),
                ids=tuple(ids[1:]),
                logprobs=of_tokens.logprobs,
                ranks=of_tokens.ranks,
                entropies=of_tokens.entropies,
                top=None if of_tokens.top is None else _as_tokens(of_tokens.top, words),
                windows=len(windows),
                _tokenizer=self.tokenizer,
            )
        return [result for result in found if result is not None]

    def encode(self, text: str, *, where: str) -> list[int]:
        """The ids of a text, its special tokens around it.

        Args:
            text: Any text.
            where: Its name in errors.

        Raises:
            InputError: Not a str, too long and to be refused, or not of the model's vocabulary.
            LanguageError: A language that the tokenizer does not have.
        """
        config = self.model.config
        if not isinstance(text, str):
            raise InputError("a text is not a str", where=where, found=type(text).__name__, expected="str")
        ids = self.tokenizer.encode(text, lang=self.lang)
        if self.too_long == "refuse" and len(ids) - 1 > config.max_position_embeddings:
            raise InputError(
                "a text is longer than the model's positions",
                where=where,
                found=f"{len(ids) - 1} tokens, the closing one aside: {text[:40]!r}…",
                expected=f"at most {config.max_position_embeddings}",
                remedy="split it into sentences, which is what the model was trained on, or score it in windows",
            )
        if max(ids) >= config.vocab_size:
            raise InputError(
                "a token is not in the model's vocabulary",
                where=where,
                found=f"id {max(ids)}",
                expected=f"ids from 0 to {config.vocab_size - 1}",
                remedy="use the tokenizer that belongs to this model",
            )
        return ids


def _as_tokens(
    top: Iterable[Iterable[tuple[int, float]]], words: Sequence[str]
) -> tuple[tuple[tuple[str, float], ...], ...]:
    # A model may have more rows than its tokenizer has tokens.
    def name(index: int) -> str:
        return words[index] if index < len(words) else f"<{index}>"

    return tuple(tuple((name(index), logprob) for index, logprob in best) for best in top)


def _stream(scorer: Scorer, texts: Iterable[str]) -> Iterator[SentenceScore]:
    if isinstance(texts, str):
        raise InputError(
            "texts is a single str, which would be scored letter by letter",
            where="texts",
            found=f"a str of {len(texts)} characters",
            expected="a list of texts, or another iterable of them",
            remedy="for one text: score(model, tokenizer, [text], lang=...)",
        )
    first = 0
    for window in read_ahead(texts, length_of):
        for result in scorer.score_window(window, first=first):
            if isinstance(result, InputError):
                raise result
            yield result
        first += len(window)


def length_of(text: object) -> int:
    """Characters of a text; 0 for what is none, which is refused later, where its place is known."""
    return len(text) if isinstance(text, str) else 0


def _language_id(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, lang: str) -> int | None:
    config = model.config
    if config.lang2id:
        return config.language_id(lang)
    if not config.has_language_embeddings:
        return None
    # The model's file names no languages; the tokenizer's may.
    return config.language_id((tokenizer.lang2id or {}).get(lang, lang))


def _warn_about_bos(token: str) -> None:
    warnings.warn(
        f"texts are scored behind {token}, as this tokenizer encodes them; the original never trained that token, and "
        "behind it the first words score much worse. For the sentences of the training, </s> … </s>: "
        "XLMTokenizer.from_pretrained(..., bos_token='</s>')",
        XLMWarning,
        stacklevel=5,  # past this, score_window, _stream and score
    )
