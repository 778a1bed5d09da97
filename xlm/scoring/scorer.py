"""``Scorer``, which scores sentences, and the results that it returns."""

from __future__ import annotations

import dataclasses
import math
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch

from xlm.errors import InputError, LanguageError, XLMError, warn_caller
from xlm.model.lm import XLMWithLMHeadModel, check_forward, eval_mode
from xlm.scoring.display import words_as_html
from xlm.scoring.logprobs import Languages, TokenScores, checked_stride, score_sequences
from xlm.scoring.options import ScoringOptions
from xlm.scoring.sentence_ends import holds_sentences
from xlm.scoring.text import Text
from xlm.tokenizer.alignment import Span
from xlm.tokenizer.moses.tokenise import moses
from xlm.tokenizer.pipeline import DEFAULT_LANGUAGE
from xlm.tokenizer.tokenizer import XLMTokenizer
from xlm.tokenizer.vocabulary import check_vocabulary_size


class WordScore(NamedTuple):
    """A word of the raw text, or a region of it. Unless words are given, a word is what stands between whitespace.

    Attributes:
        text: The word, with attached punctuation.
        start: Index of its first character in the raw text.
        end: One past its last character.
        tokens: Number of tokens that begin in the word; 0 if the tokenizer drops all of its characters.
        surprisal: Negative log-probability of those tokens together, in nats.
        unknown: Whether any of those tokens is ``<unk>``.
        first: Index of the first of those tokens among the tokens of the text.
        surprisal_without_punctuation: ``surprisal`` without the tokens at both ends of the word that consist of
            punctuation (Unicode category P); 0 for a word of punctuation only.
        entropy: Entropy of the prediction of its first token in nats, if requested; ``None`` without tokens.
        entropy_reduction: ``entropy`` minus the entropy of the prediction behind its last token, in nats, if requested;
            ``None`` if nothing is scored there.
        rank: Rank of its first token, if requested; ``None`` without tokens. For a word of several tokens, it is the
            rank of its beginning.
        top: The most likely tokens in place of its first token with their log-probabilities in nats, best first, if
            requested; ``None`` without tokens.
    """

    text: str
    start: int
    end: int
    tokens: int
    surprisal: float
    unknown: bool
    first: int
    surprisal_without_punctuation: float
    entropy: float | None = None
    entropy_reduction: float | None = None
    rank: int | None = None
    top: tuple[tuple[str, float], ...] | None = None


@dataclass(frozen=True, kw_only=True)
class SentenceScore:
    """The scores of one text, or of one sentence of a document.

    The opening token and a prefix are not predicted, so none of the tuples has an entry for them.

    Attributes:
        text: The raw text, without its prefix.
        lang: Its language, or a language for each word, those of the prefix first.
        tokens: The n predicted tokens in ``</w>`` notation, including the closing ``</s>`` unless ``closing`` is false.
        ids: Their n ids.
        logprobs: Their n log-probabilities in nats, each given the tokens before it.
        ranks: Their n ranks in the vocabulary, if requested; 1 is the most likely token, and tokens of equal
            probability share the best rank.
        entropies: The n entropies of the predictions in nats, if requested.
        top: The most likely tokens at each of the n positions with their log-probabilities in nats, best first, if
            requested. Tokens of equal probability come in any order.
        windows: Number of windows that the text or its document was scored in; 1 unless that is longer than the
            model's positions.
        unk_token: The token that replaces pieces outside the vocabulary.
        closing: Whether the last token is the closing ``</s>``.
    """

    text: str
    lang: str | tuple[str, ...]
    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    ranks: tuple[int, ...] | None = None
    entropies: tuple[float, ...] | None = None
    top: tuple[tuple[tuple[str, float], ...], ...] | None = None
    windows: int = 1
    unk_token: str = "<unk>"
    closing: bool = True
    _source: Text | None = field(default=None, repr=False, compare=False)
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

        If words are given, there is one result for each. The closing ``</s>`` belongs to no word: the surprisals of the
        words and of the last token add up to ``-logprob``.

        Raises:
            LanguageError: The library that splits the language into words does not report their offsets.
        """
        assert self._source is not None
        spans = self._source.words
        # A token belongs to the last word that begins before it, even if it begins behind the end of that word.
        bounds = [bisect_left(self._starts, start) for start, _ in spans[1:]]
        return tuple(map(self._sum, spans, [0, *bounds], [*bounds, len(self._starts)]))

    @cached_property
    def regions(self) -> tuple[WordScore, ...]:
        """The given regions in order. A token belongs to a region if it begins there; ``</s>`` belongs to none.

        Raises:
            LanguageError: As for ``words``.
        """
        assert self._source is not None
        return tuple(
            self._sum((start, end), bisect_left(self._starts, start), bisect_left(self._starts, end))
            for start, end in self._source.regions
        )

    @cached_property
    def _spans(self) -> list[Span]:
        """The span of each token but the closing one in the text."""
        assert self._source is not None
        assert self._tokenizer is not None
        return [span for span in self._source.token_spans(self._tokenizer) if span[0] >= 0]

    @cached_property
    def _starts(self) -> list[int]:
        return list(accumulate((start for start, _ in self._spans), max))

    def _sum(self, span: Span, first: int, last: int) -> WordScore:
        """Return the scores of the tokens from ``first`` to before ``last``, which belong to a span of the text."""
        start, end = span
        text = self.text[start:end]
        surprisal = bare = self._surprisal(first, last)
        if not text.isalnum():
            inner_first, inner_last = first, last
            while inner_first < inner_last and self._is_punctuation(inner_first):
                inner_first += 1
            while inner_first < inner_last and self._is_punctuation(inner_last - 1):
                inner_last -= 1
            bare = self._surprisal(inner_first, inner_last)
        entropy = reduction = rank = top = None
        if first < last:
            if self.entropies is not None:
                entropy = self.entropies[first]
                reduction = entropy - self.entropies[last] if last < len(self.entropies) else None
            rank = None if self.ranks is None else self.ranks[first]
            top = None if self.top is None else self.top[first]
        unknown = self.unk_token in self.tokens[first:last]
        return WordScore(text, start, end, last - first, surprisal, unknown, first, bare, entropy, reduction, rank, top)

    def _repr_html_(self) -> str:
        """Return the text with coloured words, which notebooks show."""
        return words_as_html(self)

    def _surprisal(self, first: int, last: int) -> float:
        surprisal = 0.0
        for logprob in self.logprobs[first:last]:
            surprisal -= logprob
        return surprisal

    def _is_punctuation(self, token: int) -> bool:
        start, end = self._spans[token]
        if self.text[start : start + 1].isalnum():
            return False
        characters = "".join(self.text[start:end].split())
        return all(unicodedata.category(character)[0] == "P" for character in characters)

    def __getstate__(self) -> dict[str, Any]:
        # Pickle the words instead of the tokenizer, which would otherwise be pickled with each result.
        if self._tokenizer is None:
            return dict(self.__dict__)
        computed = {"words": self.words, "regions": self.regions, "_tokenizer": None, "_source": None}
        return {
            **{name: value for name, value in self.__dict__.items() if name not in ("_spans", "_starts")},
            **computed,
        }


class Scorer:
    """Scores groups of texts with one model, tokenizer, language and set of options, which it checks when created.

    Args:
        model: A causal model.
        tokenizer: Its tokenizer.
        lang: Name of the language of texts that are a str; ``()`` if there are none, since each names its own.
        options: The options; ``None`` for the defaults.
        on_batch: Called after each batch with the share of the current texts or documents that is scored.
        warns_of_sentences: Whether to warn once of a text that holds several sentences, which should be scored as a
            document.

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
        lang: str | tuple[()],
        options: ScoringOptions | None = None,
        on_batch: Callable[[float], None] | None = None,
        warns_of_sentences: bool = True,
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
        per_text = isinstance(lang, tuple) and not lang
        if not per_text:
            check_language_name(lang)
        options = ScoringOptions() if options is None else options
        stride = checked_stride(options.stride, model.config.max_position_embeddings)
        self.model = model
        self.tokenizer = tokenizer
        self.lang: Any = lang
        self.language = None if per_text else language_id(model, tokenizer, lang)
        self.options = dataclasses.replace(options, stride=stride)
        self._ids: dict[Any, int | None] = {lang: self.language}
        self._warns = warns_of_sentences
        self._on_batch = on_batch

    def score_windows(self, windows: Iterable[Sequence[str | Text]]) -> Iterator[SentenceScore]:
        """Yield the result of each text, in order; a window is a few thousand texts, which are scored together.

        Raises:
            XLMError: A text cannot be scored; this is raised after the results before it.
        """
        documents = ([[text] for text in window] for window in windows)
        for (result,) in self.document_windows(documents, name=lambda i, _: f"texts[{i}]"):
            yield result

    def document_windows(
        self, windows: Iterable[Sequence[Sequence[str | Text]]], *, name: Callable[[int, int], str]
    ) -> Iterator[list[SentenceScore]]:
        """Yield the results of the sentences of each document, in order; the documents of a window are scored together.

        Args:
            windows: For each window its documents, and for each of them its sentences.
            name: Returns the name of a sentence in error messages, from the indices of its document, counted through
                all windows, and its own.

        Raises:
            XLMError: A document cannot be scored; this is raised after the results before it.
        """
        first = 0
        for window in windows:
            for result in self.score_documents(window, name=name, first=first):
                if isinstance(result, XLMError):
                    raise result
                yield result
            first += len(window)

    def score_documents(
        self, documents: Sequence[Sequence[str | Text]], *, name: Callable[[int, int], str], first: int = 0
    ) -> list[list[SentenceScore] | XLMError]:
        """Return for each document the scores of its sentences, or the error that prevents scoring.

        The sentences of a document are one sequence to the model, with ``</s>`` between them.

        Args:
            documents: The sentences of each document.
            name: Returns the name of a sentence in error messages, from the indices of its document and its own.
            first: Index of the first document.

        Raises:
            LanguageError: The tokenizer does not have the scorer's language.
        """
        results: list[list[SentenceScore] | XLMError | None] = [None] * len(documents)
        encoded: dict[int, _Document] = {}
        for i, document in enumerate(documents):
            sentences = [text if isinstance(text, Text) else Text(text, self.lang) for text in document]
            try:
                encoded[i] = self._encode(sentences, name=partial(name, first + i))
            except InputError as error:
                results[i] = error
            except LanguageError as error:
                if all(sentence.lang == self.lang for sentence in sentences):
                    raise  # no text can be scored
                results[i] = error
        config, options = self.model.config, self.options
        untrained = config.bos_token_id if config.bos_token_id != config.eos_token_id else None
        sequences = list(encoded.values())
        if any(sequence.ids[0] == untrained for sequence in sequences):
            _warn_about_bos(self.tokenizer.bos_token)
        with eval_mode(self.model), torch.inference_mode():
            scores = score_sequences(
                self.model,
                [sequence.ids for sequence in sequences],
                _common([sequence.languages for sequence in sequences]),
                given=[sequence.given for sequence in sequences],
                stride=options.stride,
                batch_tokens=options.batch_tokens,
                batch_size=options.batch_size,
                ranks=options.ranks,
                entropies=options.entropies,
                top=options.top,
                on_batch=self._on_batch,
            )
        for (i, placed), token_scores in zip(encoded.items(), scores, strict=True):
            results[i] = [self._result(placed, sentence, token_scores) for sentence in placed.sentences]
        return [result for result in results if result is not None]

    def _result(self, document: _Document, sentence: _Sentence, token_scores: TokenScores) -> SentenceScore:
        text, ids = sentence.text, document.ids[sentence.first : sentence.end]
        vocabulary = self.tokenizer.vocabulary.tokens
        place = slice(sentence.first - document.given, sentence.end - document.given)
        return SentenceScore(
            text=text.text,
            lang=text.lang if isinstance(text.lang, str | None) else tuple(text.lang),
            tokens=tuple([vocabulary[index] for index in ids]),
            ids=tuple(ids),
            logprobs=token_scores.logprobs[place],
            ranks=token_scores.ranks and token_scores.ranks[place],
            entropies=token_scores.entropies and token_scores.entropies[place],
            top=None if token_scores.top is None else _as_tokens(token_scores.top[place], vocabulary),
            windows=token_scores.windows,
            unk_token=self.tokenizer.unk_token,
            closing=self.options.closing,
            _source=text,
            _tokenizer=self.tokenizer,
        )

    def _encode(self, sentences: Sequence[Text], *, name: Callable[[int], str]) -> _Document:
        """Return the sentences of a document as one sequence, with special tokens around and between them.

        Args:
            sentences: The sentences.
            name: Returns the name of a sentence in error messages, from its index.

        Raises:
            InputError: A sentence is not valid, or the document is too long and ``too_long`` is ``"refuse"``.
            LanguageError: The model or the tokenizer does not have a language.
        """
        ids: list[int] = []
        runs: list[tuple[int | None, int]] = []  # each language, and the index of the first token that has it
        placed: list[_Sentence] = []
        for number, text in enumerate(sentences):
            where = name(number)
            text.check(where)
            self._warn_about_sentences(text)
            whole, first = text.with_prefix, len(ids) or 1
            for lang, start, end in text.runs(where):
                runs.append((self._id_of(lang, where=where), len(ids)))
                encoded = self.tokenizer.encode(whole[start:end], lang=lang)
                ids += encoded[1:-1] if ids else encoded[:-1]
            if text.prefix:
                first += sum(start < 0 for start, _ in text.token_spans(self.tokenizer))
            placed.append(_Sentence(text, first, len(ids) + self.options.closing))
            ids.append(encoded[-1])
        if not placed:
            return _Document([self.tokenizer.bos_token_id], self.language, 1, [])
        if not self.options.closing:
            ids.pop()
        self._check_length(ids, sentences[0].text, where=name(0))
        return _Document(ids, _by_token(runs, len(ids)), placed[0].first, placed)

    def _id_of(self, lang: str, *, where: str) -> int | None:
        if lang not in self._ids:
            try:
                self._ids[lang] = language_id(self.model, self.tokenizer, lang)
            except LanguageError as error:
                error.where = where
                raise
        return self._ids[lang]

    def holds_sentences(self, text: Text) -> bool:
        """Return whether a text plainly holds several sentences."""
        lang = text.lang if isinstance(text.lang, str) else DEFAULT_LANGUAGE
        return holds_sentences(text.text, moses(self.tokenizer.pipeline.preset.dialect, lang))

    def _warn_about_sentences(self, text: Text) -> None:
        if not self._warns or not self.holds_sentences(text):
            return
        self._warns = False
        warn_caller(
            f"a text seems to hold several sentences: {text.text[:60]!r}; the model was trained with </s> between "
            "sentences, and the first words of each score worse without it. Pass the sentences of a document to "
            "score_documents. In the command, give one sentence a line with --documents, raw prose with "
            "--split-sentences, or for one word a row a second --group-by that tells the sentences apart"
        )

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
        self._check_length(ids, text, where=where)
        return ids

    def _check_length(self, ids: Sequence[int], text: str, *, where: str) -> None:
        positions = self.model.config.max_position_embeddings
        if self.options.too_long == "refuse" and len(ids) - 1 > positions:
            raise InputError(
                "a text is longer than the model's positions",
                where=where,
                found=f"{len(ids) - 1} tokens, not counting the closing one: {text[:40]!r}…",
                expected=f"at most {positions}",
                remedy="split it into sentences, which is what the model was trained on, or score it in windows",
            )


class _Sentence(NamedTuple):
    """A sentence of a document, and which of the document's tokens are scored for it."""

    text: Text
    first: int
    end: int


class _Document(NamedTuple):
    """The sentences of a document as one sequence of tokens; a single text is a document of one sentence.

    Attributes:
        ids: Ids of the tokens.
        languages: Id of their language, or one id for each token; ``None`` without language embeddings.
        given: Number of tokens at the start that are not scored.
        sentences: The sentences in order.
    """

    ids: list[int]
    languages: int | list[int] | None
    given: int
    sentences: list[_Sentence]


def finite(result: SentenceScore) -> SentenceScore | InputError:
    """Return a result, or an error if a score in it is not finite."""
    if all(map(math.isfinite, (*result.logprobs, *(result.entropies or ())))):
        return result
    return InputError("the scores are not finite")


def _by_token(runs: Sequence[tuple[int | None, int]], count: int) -> Any:
    """Return the one language of all runs, or else the language of each token; a run ends where the next one begins."""
    if len(runs) == 1 or len({language for language, _ in runs}) == 1:
        return runs[0][0]
    starts = [*(start for _, start in runs), count]
    return [language for (language, start), end in zip(runs, starts[1:], strict=True) for _ in range(start, end)]


def _common(languages: list[Any]) -> Languages:
    """Return the one language of all sequences, or else one or several for each."""
    kinds = {each if isinstance(each, int | None) else -1 for each in languages}
    return languages[0] if len(kinds) == 1 and -1 not in kinds else languages


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


def language_id(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, lang: Any) -> int | None:
    """Return the id of a language by its name; ``None`` for a model without language embeddings.

    Raises:
        LanguageError: The model does not have the language.
    """
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
