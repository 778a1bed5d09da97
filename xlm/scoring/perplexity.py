"""Perplexity of a corpus, sentence by sentence or in the original's stream of all sentences."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from xlm._io.arguments import check_choice
from xlm.corpus.read_ahead import checked_texts, length_of, read_ahead
from xlm.errors import InputError
from xlm.model.lm import XLMWithLMHeadModel, eval_mode
from xlm.scoring.logprobs import checked_stride, score_sequences
from xlm.scoring.options import ScoringOptions
from xlm.scoring.scorer import Scorer, check_language_name, check_pair
from xlm.scoring.stream import ArraySequence, Stream
from xlm.tokenizer.tokenizer import XLMTokenizer

PROTOCOLS = ("sentence", "stream")
_STREAM_WINDOW = 256  # the published models were trained with windows of this length
_WINDOWS_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguagePerplexity:
    """How well a model predicts the texts of one language.

    Attributes:
        lang: The language.
        texts: Number of texts.
        tokens: Number of predicted tokens.
        unknown: Number of predicted tokens that are ``<unk>``, which replaces pieces outside the vocabulary.
        nats: Total negative log-probability of the predicted tokens in nats.
        characters: Number of characters of the raw texts, plus one for the end of each text.
        utf8_bytes: Number of bytes of the raw texts in UTF-8, plus one for the end of each text.
        whole: Whether every token was predicted. In the stream, the first token of each window is not predicted.
    """

    lang: str
    texts: int
    tokens: int
    unknown: int
    nats: float
    characters: int
    utf8_bytes: int
    whole: bool

    @property
    def nats_per_token(self) -> float:
        """Cross-entropy in nats per token; NaN if there are no tokens."""
        return self.nats / self.tokens if self.tokens else math.nan

    @property
    def perplexity(self) -> float:
        """Exponential of ``nats_per_token``; infinity if it exceeds the range of a float."""
        try:
            return math.exp(self.nats_per_token)
        except OverflowError:
            return math.inf

    @property
    def bits_per_character(self) -> float | None:
        """Bits per character of the raw text, counting each text's end as a character; ``None`` unless ``whole``."""
        return self.nats / math.log(2) / self.characters if self.whole and self.characters else None

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per UTF-8 byte of the raw text, counting each text's end as a byte; ``None`` unless ``whole``."""
        return self.nats / math.log(2) / self.utf8_bytes if self.whole and self.utf8_bytes else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Perplexity:
    """The perplexities of one or several languages.

    Attributes:
        protocol: ``"sentence"`` or ``"stream"``.
        window: Number of tokens in a window of the stream; ``None`` for sentences.
        stride: Number of tokens by which the windows of a long sentence advance; ``None`` for the stream.
        languages: One result per language, in the order of the arguments.
    """

    protocol: str
    window: int | None
    stride: int | None
    languages: tuple[LanguagePerplexity, ...]

    @property
    def perplexity(self) -> float:
        """Mean of the languages' perplexities, by which the original selects models."""
        return math.fsum(each.perplexity for each in self.languages) / len(self.languages)


def perplexity(
    model: XLMWithLMHeadModel,
    tokenizer: XLMTokenizer,
    texts: Iterable[str] | Mapping[str, Iterable[str]],
    *,
    lang: str | None = None,
    protocol: str = "sentence",
    window: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
    batch_tokens: int | None = None,
) -> Perplexity:
    """Return the perplexity of a corpus, or of one corpus for each language.

    Args:
        model: A causal model.
        tokenizer: Its tokenizer.
        texts: Raw texts, read as they are needed; or a mapping from language to texts.
        lang: The language of ``texts``; ``None`` with a mapping.
        protocol: ``"sentence"`` scores each text by itself, as ``score`` does, and predicts every token, including the
            closing one. ``"stream"`` is exactly the original's ``evaluate_clm``: all texts, each followed by ``</s>``
            (an empty text is only ``</s>``), form one sequence, which is padded in front with ``</s>`` and cut into
            windows of equal length. Each window starts at position 0; its first token is given and the others are
            predicted. The result depends on ``window``, so do not compare results with different windows.
        window: Number of tokens in a window of the stream, from 2 to the model's positions; ``None`` for 256.
        stride: As for ``score``; with ``"sentence"`` only.
        batch_size: Maximum number of texts or windows in a batch; ``None`` for as many as ``batch_tokens`` allows.
        batch_tokens: As for ``score``.

    Raises:
        InputError: There are no texts, a text is not a str or does not fit the vocabulary, the language is missing or
            given twice, the model is bidirectional, or an option has a value that is not allowed.
        LanguageError: The model does not have a language.

    Source: the original's ``EncoderDecoderEvaluator.evaluate_clm``, ``StreamDataset`` and ``Dictionary.index_data``.
    """
    check_pair(model, tokenizer)
    check_language_name(lang)
    if isinstance(texts, Mapping) != (lang is None):
        raise InputError(
            "the language is missing or given twice",
            where="lang",
            found=repr(lang),
            expected="lang=… with texts of one language, or a mapping from language to texts without lang",
        )
    check_choice("protocol", PROTOCOLS, protocol=protocol)
    if protocol == "stream":
        window = _checked_window(window, model.config.max_position_embeddings)
        if stride is not None:
            raise InputError(
                "the windows of the stream do not overlap, so it has no stride",
                where="stride",
                found=stride,
                expected="no stride, or protocol='sentence'",
            )
    elif window is not None:
        raise InputError(
            "a window applies only to protocol='stream'",
            where="window",
            found=window,
            expected="no window, or protocol='stream'",
        )
    corpora = texts if isinstance(texts, Mapping) else {lang or "": texts}
    if not corpora:
        raise InputError(
            "there is no corpus", where="texts", found="an empty mapping", expected="at least one language"
        )
    # Check all languages before reading any text, so that a mistake in the last one shows at once.
    options = ScoringOptions(batch_size=batch_size, batch_tokens=batch_tokens, stride=stride)
    scorers = {language: Scorer(model, tokenizer, lang=language, options=options) for language in corpora}
    for language, scorer in scorers.items():
        scorer.encode("", where=f"texts[{language!r}]")
        checked_texts(corpora[language])
    results = []
    for language, corpus in corpora.items():
        scorer = scorers[language]
        counted = _Counted(corpus, lang=language)
        if window is None:
            nats, tokens, unknown = _of_sentences(scorer, counted)
        else:
            nats, tokens, unknown = _of_stream(scorer, counted, window)
        results.append(
            LanguagePerplexity(
                lang=language,
                texts=counted.texts,
                tokens=tokens,
                unknown=unknown,
                nats=nats,
                characters=counted.characters,
                utf8_bytes=counted.utf8_bytes,
                whole=window is None,
            )
        )
    stride = checked_stride(stride, model.config.max_position_embeddings) if window is None else None
    return Perplexity(protocol=protocol, window=window, stride=stride, languages=tuple(results))


class _Counted:
    """Yields texts in groups, and counts the texts, their characters and their bytes."""

    def __init__(self, texts: Iterable[str], *, lang: str) -> None:
        self._texts, self._lang = texts, lang
        self.texts = self.characters = self.utf8_bytes = 0

    def windows(self) -> Iterable[list[str]]:
        for texts in read_ahead(self._texts, length_of):
            yield texts
            self.texts += len(texts)
            self.characters += sum(map(len, texts)) + len(texts)
            self.utf8_bytes += sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) + len(texts)
        if not self.texts:
            raise InputError(
                "there are no texts", where="texts", found=f"none of language {self._lang!r}", expected="at least one"
            )


def _of_sentences(scorer: Scorer, corpus: _Counted) -> tuple[float, int, int]:
    sums = array("d")  # added at the end: a running sum of millions of numbers loses digits
    tokens = unknown = 0
    for texts in corpus.windows():
        for result in scorer.score_window(texts, first=corpus.texts):
            if isinstance(result, InputError):
                raise result
            sums.append(result.logprob)
            tokens += len(result.logprobs)
            unknown += result.unknown
    return 0.0 - math.fsum(sums), tokens, unknown


def _of_stream(scorer: Scorer, corpus: _Counted, window: int) -> tuple[float, int, int]:
    unk, end = scorer.tokenizer.unk_token_id, scorer.model.config.eos_token_id
    ids = array("i")  # all ids at once, four bytes each, because the windows depend on their number
    for texts in corpus.windows():
        for i, text in enumerate(texts):
            # Drop the special tokens at both ends of a sentence.
            ids.extend(scorer.encode(text, where=f"texts[{corpus.texts + i}]")[1:-1])
            ids.append(end)
    stream = Stream(sequence=ArraySequence(np.frombuffer(ids, np.int32)), rows=1, width=window, eos_id=end)
    count = len(stream)
    sums = array("d")
    unknown = 0
    options = scorer.options
    with eval_mode(scorer.model), torch.inference_mode():
        for start in range(0, count, _WINDOWS_AT_ONCE):
            windows = [stream.window(index)[0].tolist() for index in range(start, min(start + _WINDOWS_AT_ONCE, count))]
            scores = score_sequences(
                scorer.model,
                windows,
                scorer.language,
                batch_size=options.batch_size,
                batch_tokens=options.batch_tokens,
            )
            sums.extend(math.fsum(scored.logprobs) for scored in scores)
            unknown += sum(ids[1:].count(unk) for ids in windows)
    return 0.0 - math.fsum(sums), count * (window - 1), unknown


def _checked_window(window: int | None, positions: int) -> int:
    if window is None:
        return min(_STREAM_WINDOW, positions)
    if type(window) is not int or not 2 <= window <= positions:
        raise InputError(
            "invalid window",
            where="window",
            found=repr(window),
            expected=f"from 2 to the model's {positions} positions",
        )
    return window
