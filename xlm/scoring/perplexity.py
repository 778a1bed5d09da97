"""Perplexity of a corpus: sentence by sentence, by document, or in the original's stream of all sentences."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from xlm._io.arguments import check_choice, check_count
from xlm._io.progress import ProgressBar
from xlm.corpus.read_ahead import checked_texts, length_of, read_ahead
from xlm.errors import InputError
from xlm.model.lm import XLMWithLMHeadModel, eval_mode
from xlm.scoring.logprobs import checked_stride, score_sequences
from xlm.scoring.options import ScoringOptions
from xlm.scoring.scorer import Scorer, check_language_name, check_pair
from xlm.scoring.stream import ArraySequence, Stream
from xlm.tokenizer.tokenizer import XLMTokenizer

PROTOCOLS = ("sentence", "document", "stream")
_STREAM_WINDOW = 256  # the published models were trained with windows of this length
_WINDOWS_AT_ONCE = 1024


_UNITS = {
    "perplexity": "tokens",
    "nats_per_token": "tokens",
    "perplexity_per_word": "words",
    "bits_per_character": "characters",
    "bits_per_byte": "utf8_bytes",
}
"""The measures, and the numbers of units that they divide by."""

_Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguagePerplexity:
    """How well a model predicts the texts of one language.

    Attributes:
        lang: The language.
        texts: Number of texts; for documents, that of their sentences.
        tokens: Number of predicted tokens.
        unknown: Number of predicted tokens that are ``<unk>``, which replaces pieces outside the vocabulary.
        nats: Total negative log-probability of the predicted tokens in nats.
        words: Number of words of the raw texts (between whitespace), plus one for the end of each text.
        characters: Number of characters of the raw texts, plus one for the end of each text.
        utf8_bytes: Number of bytes of the raw texts in UTF-8, plus one for the end of each text.
        text_tokens: Number of tokens of the texts, including the closing token of each.
        whole: Whether every token was predicted. In the stream, the first token of each window is not predicted, and
            the padding in front of the texts is. Measures per word, character and byte then count each of the
            ``text_tokens`` with the average of the predicted tokens.
        documents: Number of documents that have sentences; ``None`` unless the protocol is ``"document"``.
    """

    lang: str
    texts: int
    tokens: int
    unknown: int
    nats: float
    words: int
    characters: int
    utf8_bytes: int
    text_tokens: int
    whole: bool
    documents: int | None = None
    _by_text: Mapping[str, _Array] | None = field(default=None, repr=False, compare=False)

    @property
    def nats_per_token(self) -> float:
        """Cross-entropy in nats per token; NaN if there are no tokens."""
        return self.nats / self.tokens if self.tokens else math.nan

    @property
    def perplexity(self) -> float:
        """Exponential of ``nats_per_token``; infinity if it exceeds the range of a float."""
        return _measure("perplexity", self.nats_per_token)

    @property
    def perplexity_per_word(self) -> float:
        """Perplexity per word of the raw text, counting each text's end as a word.

        Unlike the perplexity per token, it can be compared between models with different vocabularies.
        """
        return _measure("perplexity_per_word", self._text_nats / self.words)

    @property
    def bits_per_character(self) -> float:
        """Bits per character of the raw text, counting each text's end as a character."""
        return _measure("bits_per_character", self._text_nats / self.characters)

    @property
    def bits_per_byte(self) -> float:
        """Bits per UTF-8 byte of the raw text, counting each text's end as a byte."""
        return _measure("bits_per_byte", self._text_nats / self.utf8_bytes)

    @property
    def _text_nats(self) -> float:
        return self.nats if self.whole else self.nats_per_token * self.text_tokens

    def interval(self, measure: str, *, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
        """Return the 95 % confidence interval of a measure, from a bootstrap over the texts or documents.

        Each resample draws as many of them as there are, with replacement. The interval goes from the 2.5th to the
        97.5th percentile of the measure in the resamples.

        Args:
            measure: ``"perplexity"``, ``"nats_per_token"``, ``"perplexity_per_word"``, ``"bits_per_character"`` or
                ``"bits_per_byte"``.
            resamples: Number of resamples.
            seed: Seed of the draws. The same seed and number of texts give the same draws.

        Raises:
            InputError: There is no such measure, an argument has a value that is not allowed, or the texts were scored
                as a stream, in which they are not independent.
        """
        low, high = np.quantile(self._resampled(measure, resamples=resamples, seed=seed), (0.025, 0.975))
        return float(low), float(high)

    def difference_interval(
        self, other: LanguagePerplexity, measure: str, *, resamples: int = 1000, seed: int = 0
    ) -> tuple[float, float]:
        """Return the 95 % confidence interval of a difference: the measure of this result minus that of another one.

        The bootstrap is paired: each resample draws the same texts for both results.

        Args:
            other: The result of another model on the same texts.
            measure: As for ``interval``.
            resamples: As for ``interval``.
            seed: As for ``interval``.

        Raises:
            InputError: As for ``interval``, or the results are of different texts.
        """
        if not isinstance(other, LanguagePerplexity):
            raise InputError("not a result of perplexity", where="other", found=type(other).__name__)
        if not np.array_equal(self._of_texts("utf8_bytes"), other._of_texts("utf8_bytes")):
            raise InputError(
                "the results are of different texts",
                where="other",
                found=f"{self.texts:,} and {other.texts:,} texts",
                expected="the same texts, of the same lengths",
            )
        first = self._resampled(measure, resamples=resamples, seed=seed)
        second = other._resampled(measure, resamples=resamples, seed=seed)
        low, high = np.quantile(first - second, (0.025, 0.975))
        return float(low), float(high)

    def _resampled(self, measure: str, *, resamples: int, seed: int) -> _Array:
        check_choice("measure", _UNITS, measure=measure)
        check_count(resamples=resamples)
        check_count(seed=seed, least=0)
        nats, units = self._of_texts("nats"), self._of_texts(_UNITS[measure])
        draws = np.random.default_rng(seed)
        rates = np.empty(resamples)
        for i in range(resamples):
            drawn = draws.integers(len(nats), size=len(nats))
            rates[i] = nats[drawn].sum() / units[drawn].sum()
        return np.array([_measure(measure, rate) for rate in rates.tolist()])

    def _of_texts(self, number: str) -> _Array:
        if self._by_text is None:
            raise InputError(
                "the stream has no confidence interval, because its texts are not independent",
                where="protocol",
                found="'stream'",
                expected="'sentence'",
            )
        return self._by_text[number]


def _measure(name: str, rate: float) -> float:
    """Return the value of a measure for a number of nats per unit."""
    if name.startswith("bits"):
        return rate / math.log(2)
    if name.startswith("perplexity"):
        try:
            return math.exp(rate)
        except OverflowError:
            return math.inf
    return rate


@dataclass(frozen=True, kw_only=True, slots=True)
class Perplexity:
    """The perplexities of one or several languages.

    Attributes:
        protocol: ``"sentence"``, ``"document"`` or ``"stream"``.
        window: Number of tokens in a window of the stream; else ``None``.
        stride: Number of tokens by which the windows of a long sentence or document advance; ``None`` for the stream.
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
    texts: Iterable[str]
    | Iterable[Iterable[str]]
    | Mapping[str, Iterable[str]]
    | Mapping[str, Iterable[Iterable[str]]],
    *,
    lang: str | None = None,
    protocol: str = "sentence",
    window: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
    batch_tokens: int | None = None,
    progress: bool | None = False,
) -> Perplexity:
    """Return the perplexity of a corpus, or of one corpus for each language.

    Args:
        model: A causal model.
        tokenizer: Its tokenizer.
        texts: Raw texts, or for ``"document"`` documents, each a list of its sentences; they are read as needed. Or a
            mapping from language to these.
        lang: The language of ``texts``; ``None`` with a mapping.
        protocol: ``"sentence"`` scores each text by itself, as ``score`` does, and predicts every token, including the
            closing one. ``"document"`` scores each sentence given the ones before it, as ``score_documents`` does, and
            predicts every token, including the ``</s>`` behind each sentence. ``"stream"`` is exactly the original's
            ``evaluate_clm``: all texts, each followed by ``</s>`` (an empty text is only ``</s>``), form one sequence,
            which is padded in front with ``</s>`` and cut into windows of equal length. Each window starts at position
            0; its first token is given and the others are predicted. The result depends on ``window``, so do not
            compare results with different windows.
        window: Number of tokens in a window of the stream, from 2 to the model's positions; ``None`` for 256.
        stride: As for ``score``; not with ``"stream"``.
        batch_size: Maximum number of texts or windows in a batch; ``None`` for as many as ``batch_tokens`` allows.
        batch_tokens: As for ``score``.
        progress: As for ``score``; there is one bar for each language, and for the stream it counts windows.

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
                expected="no stride, or another protocol",
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
    unit = "texts" if window is None else "windows"
    bars = {language: ProgressBar.of(each, progress, unit=unit, label=language) for language, each in corpora.items()}
    scorers = {
        language: Scorer(model, tokenizer, lang=language, options=options, on_batch=bar.show_share)
        for language, bar in bars.items()
    }
    for language, scorer in scorers.items():
        scorer.encode("", where=f"texts[{language!r}]")
        checked_texts(corpora[language])
    results = []
    for language, corpus in corpora.items():
        scorer, bar = scorers[language], bars[language]
        counted = _Counted(corpus, lang=language, documents=protocol == "document")
        results.append(
            _of_documents(scorer, counted, bar) if window is None else _of_stream(scorer, counted, window, bar)
        )
    stride = checked_stride(stride, model.config.max_position_embeddings) if window is None else None
    return Perplexity(protocol=protocol, window=window, stride=stride, languages=tuple(results))


_COUNTS: dict[str, Callable[[str], int]] = {
    "words": lambda text: len(text.split()),
    "characters": len,
    "utf8_bytes": lambda text: len(text.encode("utf-8", "surrogatepass")),
}
"""Functions that count units of a text."""


class _Counted:
    """Yields documents in groups, and counts the words, characters and bytes of each, and the end of each text as one.

    Args:
        texts: Texts, each of which is a document of one sentence; or documents.
        lang: Their language.
        documents: Whether they are documents. Those without sentences are left out.
    """

    def __init__(self, texts: Iterable[Any], *, lang: str, documents: bool) -> None:
        self._items = texts
        self.lang = lang
        self.has_documents = documents
        self.read = 0  # texts or documents in the groups so far
        self.texts = 0
        self.counts = {name: array("q") for name in _COUNTS}

    def windows(self) -> Iterable[list[list[str]]]:
        for documents in read_ahead(self._documents(), lambda texts: sum(map(length_of, texts))):
            yield documents
            self.read += len(documents)
            self.texts += sum(map(len, documents))
            for name, count in _COUNTS.items():
                self.counts[name].extend(sum(count(text) + 1 for text in texts) for texts in documents)
        if not self.texts:
            raise InputError(
                "there are no texts", where="texts", found=f"none of language {self.lang!r}", expected="at least one"
            )

    def _documents(self) -> Iterator[list[str]]:
        if not self.has_documents:
            yield from ([text] for text in self._items)
            return
        for number, sentences in enumerate(self._items):
            try:
                document = list(checked_texts(sentences))
            except InputError as error:
                error.where = f"texts[{number}]"
                raise
            if document:
                yield document

    def name(self, document: int, sentence: int) -> str:
        """Return the name of a text in error messages."""
        return f"texts[{document}]" + (f"[{sentence}]" if self.has_documents else "")

    def result(self, **numbers: Any) -> LanguagePerplexity:
        """Return the result of all texts, with further numbers by name."""
        sums: dict[str, Any] = {name: sum(count) for name, count in self.counts.items()}
        return LanguagePerplexity(lang=self.lang, texts=self.texts, **sums, **numbers)


def _of_documents(scorer: Scorer, corpus: _Counted, bar: ProgressBar) -> LanguagePerplexity:
    nats, tokens = array("d"), array("q")  # of each document, or text
    unknown = 0
    with bar:
        for results in scorer.document_windows(bar.groups(corpus.windows()), name=corpus.name):
            nats.append(0.0 - math.fsum(logprob for result in results for logprob in result.logprobs))
            tokens.append(sum(len(result.logprobs) for result in results))
            unknown += sum(result.unknown for result in results)
    by_text = {"nats": nats, "tokens": tokens, **corpus.counts}
    return corpus.result(
        tokens=sum(tokens),
        unknown=unknown,
        nats=math.fsum(nats),  # at the end: a running sum of millions of numbers loses digits
        text_tokens=sum(tokens),
        whole=True,
        documents=corpus.read if corpus.has_documents else None,
        _by_text={name: np.asarray(numbers) for name, numbers in by_text.items()},
    )


def _of_stream(scorer: Scorer, corpus: _Counted, window: int, bar: ProgressBar) -> LanguagePerplexity:
    unk, end = scorer.tokenizer.unk_token_id, scorer.model.config.eos_token_id
    ids = array("i")  # all ids at once, four bytes each, because the windows depend on their number
    for documents in corpus.windows():
        for i, (text,) in enumerate(documents, start=corpus.read):
            # Drop the special tokens at both ends of a sentence.
            ids.extend(scorer.encode(text, where=corpus.name(i, 0))[1:-1])
            ids.append(end)
    stream = Stream(sequence=ArraySequence(np.frombuffer(ids, np.int32)), rows=1, width=window, eos_id=end)
    count = len(stream)
    sums = array("d")
    unknown = 0
    bar.total = count
    groups = [range(start, min(start + _WINDOWS_AT_ONCE, count)) for start in range(0, count, _WINDOWS_AT_ONCE)]
    with eval_mode(scorer.model), torch.inference_mode(), bar:
        for indices in bar.groups(groups):
            windows = [stream.window(index)[0].tolist() for index in indices]
            scores = score_sequences(
                scorer.model,
                windows,
                scorer.language,
                batch_size=scorer.options.batch_size,
                batch_tokens=scorer.options.batch_tokens,
                on_batch=bar.show_share,
            )
            sums.extend(math.fsum(scored.logprobs) for scored in scores)
            unknown += sum(ids[1:].count(unk) for ids in windows)
    return corpus.result(
        tokens=count * (window - 1),
        unknown=unknown,
        nats=0.0 - math.fsum(sums),
        text_tokens=len(ids),
        whole=False,
    )


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
