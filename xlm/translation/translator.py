"""Translate texts: a whole list, or a stream of any length in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch

from xlm._io.arguments import check_count, check_flags, lists_options, shown
from xlm._io.progress import ProgressBar
from xlm.corpus.read_ahead import checked_texts, length_of, read_ahead
from xlm.data.sentences import padded
from xlm.errors import InputError, LanguageError, Problem, XLMError
from xlm.model.config import XLMConfig
from xlm.model.decoding.options import DecodingOptions
from xlm.model.decoding.result import Continuation, Stop
from xlm.model.seq2seq import XLMEncoderDecoderModel
from xlm.tokenizer.moses.detokenise import detokenized
from xlm.tokenizer.tokenizer import XLMTokenizer
from xlm.tokenizer.vocabulary import END_OF_WORD, check_vocabulary_size

if TYPE_CHECKING:
    from typing_extensions import Unpack

_BATCHES_READ_AHEAD = 32  # so that texts of similar length share a batch


@dataclass(frozen=True, kw_only=True, slots=True)
class TranslationOptions:
    """Options of ``translate`` and ``translate_stream``, which take them as keyword arguments.

    Attributes:
        num_beams: Number of hypotheses that beam search keeps; 1 for greedy search.
        n_best: Number of translations of each text, best first; at most ``num_beams``.
        length_penalty: Beams are ranked by the sum of log-probabilities / tokens ** ``length_penalty``.
        early_stopping: Whether beam search stops a sentence as soon as it has ``num_beams`` hypotheses.
        max_length: Maximum number of tokens in a translation. By default one and a half times as many as the text has,
            plus 10. The ``</s>`` at both ends count for text and translation.
        batch_size: Number of texts of similar length that are translated together.
        tokenized: Whether to return words and punctuation separated by blanks, as the model produces them, instead of
            ordinary text.

    Raises:
        InputError: An option has an invalid value.
    """

    num_beams: int = 1
    n_best: int = 1
    length_penalty: float = 1.0
    early_stopping: bool = False
    max_length: int | None = None
    batch_size: int = 32
    tokenized: bool = False

    def __post_init__(self) -> None:
        check_count(num_beams=self.num_beams, n_best=self.n_best, batch_size=self.batch_size)
        if self.max_length is not None:
            check_count(least=2, max_length=self.max_length)
        check_flags(tokenized=self.tokenized)
        if self.n_best > self.num_beams:
            raise InputError(
                "n_best is larger than the number of beams",
                where="n_best",
                found=f"n_best = {self.n_best}, num_beams = {self.num_beams}",
                expected="at most num_beams",
            )

    @property
    def read_at_once(self) -> int:
        """Number of texts that are read ahead and translated together."""
        return _BATCHES_READ_AHEAD * self.batch_size

    def decoding(self) -> dict[str, Any]:
        """Return the options of ``XLMEncoderDecoderModel.generate``."""
        options: dict[str, Any] = {"num_return_sequences": self.n_best, "max_length": self.max_length}
        if self.num_beams > 1:
            beams = {"length_penalty": self.length_penalty, "early_stopping": self.early_stopping}
            options |= {"num_beams": self.num_beams, **beams}
        return options


lists_translation_options = lists_options(TranslationOptions)
"""Decorator for functions that take the options of translation as keyword arguments."""


class TranslationKeywords(TypedDict, total=False):
    """``TranslationOptions`` as keyword arguments, for type checkers."""

    num_beams: int
    n_best: int
    length_penalty: float
    early_stopping: bool
    max_length: int | None
    batch_size: int
    tokenized: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Translation:
    """One translation of a text.

    Attributes:
        text: The translation as ordinary text, or tokenised if the options say so.
        tokens: Tokens of the translation, without ``</s>``.
        logprob: Log-probability of the translation in nats, the closing ``</s>`` included if there is one.
        score: The number by which beam search ranks translations; ``None`` without beam search.
        stop: Why the translation ended: ``"eos"``, or, if it was cut, the limit: ``"max_length"`` or ``"positions"``.
    """

    text: str
    tokens: tuple[str, ...]
    logprob: float
    score: float | None
    stop: Stop


@dataclass(frozen=True, kw_only=True, slots=True)
class TranslatedText:
    """A text with its translations.

    Attributes:
        source: The text.
        translations: Best first; none if there is a problem.
        problem: Why the text has no translation.
    """

    source: str
    translations: tuple[Translation, ...] = ()
    problem: str | None = None

    @property
    def text(self) -> str:
        """The best translation; empty if there is none."""
        return self.translations[0].text if self.translations else ""


class Translator:
    """Translates texts from one language to another.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        source: Name of the language of the texts.
        target: Name of the language to translate to.
        options: How to translate.
        on_batch: Called after each batch with the share of the current texts that is translated.

    Raises:
        InputError: The model is not an encoder-decoder, the tokenizer belongs to another model, the languages are the
            same, or an option is invalid.
        LanguageError: The model or the tokenizer does not have a language.
    """

    def __init__(
        self,
        model: XLMEncoderDecoderModel,
        tokenizer: XLMTokenizer,
        *,
        source: str,
        target: str,
        options: TranslationOptions,
        on_batch: Callable[[float], None] | None = None,
    ) -> None:
        if not isinstance(model, XLMEncoderDecoderModel):
            raise InputError(
                "the model does not translate",
                where="model",
                found=type(model).__name__,
                expected="an XLMEncoderDecoderModel",
                remedy="a language model can be the start of one: from_encoder_decoder_pretrained",
            )
        if not isinstance(tokenizer, XLMTokenizer):
            raise InputError(
                "a model and its tokenizer are needed",
                where="tokenizer",
                found=type(tokenizer).__name__,
                expected="an XLMTokenizer",
            )
        check_vocabulary_size(tokenizer.vocab_size, model.config.vocab_size)
        if problems := other_special_tokens(model.config, tokenizer):
            raise InputError.of_values(
                "the model and the tokenizer have different special tokens",
                problems,
                remedy="use the tokenizer that belongs to this model",
            )
        for name, lang in (("source", source), ("target", target)):
            if not isinstance(lang, str):
                raise LanguageError("not a language", where=name, found=shown(lang), expected="a str")
        if source == target:
            raise InputError("source and target are the same language", where="source, target", found=source)
        # The options are checked for the model before the first text is read.
        DecodingOptions.checked(
            model.config,
            num_beams=options.num_beams,
            length_penalty=options.length_penalty,
            early_stopping=options.early_stopping,
        )
        self._model, self._tokenizer, self._options = model, tokenizer, options
        self._source, self._target = source, target
        self._on_batch = on_batch
        self._langs: dict[str, Any] = {
            "langs": self._language(source, where="source"),
            "decoder_langs": self._language(target, where="target"),
        }

    def _language(self, lang: str, *, where: str) -> int | None:
        """Return the id of a language in the model; ``None`` for a model without language embeddings."""
        config = self._model.config
        try:
            self._tokenizer.encode("", lang=lang)
            if not config.has_language_embeddings:
                return None
            # The model's file may lack the names of languages that the tokenizer's file has.
            return config.language_id(lang if config.lang2id else (self._tokenizer.lang2id or {}).get(lang, lang))
        except LanguageError as error:
            error.where = where
            raise

    def translate_window(self, texts: Sequence[str]) -> list[TranslatedText]:
        """Return the translations of some texts, in order; texts of similar length share a batch."""
        config = self._model.config
        results: list[TranslatedText] = []
        ids: dict[int, list[int]] = {}
        for index, text in enumerate(texts):
            problem = None
            try:
                tokens = self._tokenizer.encode(text, lang=self._source, add_special_tokens=False)
                ids[index] = [config.eos_token_id, *tokens, config.eos_token_id]
                if not tokens:
                    problem = "the text is empty"
                elif len(ids[index]) > config.max_position_embeddings:
                    problem = (
                        f"{len(ids[index]):,} tokens with </s> at both ends, more than the model's "
                        f"{config.max_position_embeddings:,} positions"
                    )
            except XLMError as error:
                problem = error.in_short
            if problem is not None:
                ids.pop(index, None)
            results.append(TranslatedText(source=text, problem=problem))
        order = sorted(ids, key=lambda index: len(ids[index]))
        for first in range(0, len(order), self._options.batch_size):
            batch = order[first : first + self._options.batch_size]
            for index, outcome in zip(batch, self._translate_each([ids[index] for index in batch]), strict=True):
                if isinstance(outcome, XLMError):
                    results[index] = TranslatedText(source=texts[index], problem=outcome.in_short)
                else:
                    results[index] = TranslatedText(source=texts[index], translations=tuple(outcome))
            if self._on_batch is not None:
                self._on_batch((first + len(batch)) / len(order))
        return results

    def _translate_each(self, sentences: Sequence[list[int]]) -> list[list[Translation] | XLMError]:
        """Return, for each sentence, its translations, or an error if the model's scores are not finite."""
        try:
            return [*self._translate(sentences)]
        except XLMError as error:
            if len(sentences) == 1:
                return [error]
            return [self._translate_each([sentence])[0] for sentence in sentences]

    def _translate(self, sentences: Sequence[list[int]]) -> list[list[Translation]]:
        ids_BS, lengths_B = padded(
            [np.array(sentence) for sentence in sentences], pad_id=self._model.config.pad_token_id
        )
        continuations = self._model.continuations(
            torch.from_numpy(ids_BS).to(self._model.device),
            lengths=torch.from_numpy(lengths_B),
            **self._langs,
            **self._options.decoding(),
        )
        translations: list[list[Translation]] = [[] for _ in sentences]
        for continuation in continuations:
            translations[continuation.prompt].append(self._translation(continuation))
        return translations

    def _translation(self, continuation: Continuation) -> Translation:
        ids = continuation.tokens[:-1] if continuation.stop == "eos" else continuation.tokens
        text = translated_text(self._tokenizer, ids, lang=self._target, tokenized=self._options.tokenized)
        return Translation(
            text=text,
            tokens=tuple(self._tokenizer.convert_ids_to_tokens(ids)),
            logprob=continuation.logprob,
            score=continuation.score,
            stop=continuation.stop,
        )


def other_special_tokens(config: XLMConfig, tokenizer: XLMTokenizer) -> list[Problem]:
    """Return the ids of special tokens that a model has and its tokenizer does not, as problems for an error."""
    expected = {"eos_token_id": tokenizer.sep_token_id, "pad_token_id": tokenizer.pad_token_id}
    return [
        (name, getattr(config, name), f"{index}, as in the tokenizer")
        for name, index in expected.items()
        if getattr(config, name) != index
    ]


def translated_text(tokenizer: XLMTokenizer, ids: Sequence[int], *, lang: str, tokenized: bool) -> str:
    """Return the text of ids that a model produced; a special token such as ``<unk>`` ends a word.

    Special tokens lack the end-of-word mark. ``XLMTokenizer.decode``, like ``decode`` in ``transformers``, therefore
    joins ``<unk>`` to the next word. The original does not, and neither does this function.

    Args:
        tokenizer: The tokenizer of the model.
        ids: Ids without ``</s>`` at the ends.
        lang: Language of the text.
        tokenized: Whether to separate all words and punctuation by blanks, instead of returning ordinary text.
    """
    special = frozenset(tokenizer.all_special_tokens)
    tokens = tokenizer.convert_ids_to_tokens(ids)
    text = tokenizer.convert_tokens_to_string([f"{each}{END_OF_WORD}" if each in special else each for each in tokens])
    return text if tokenized else detokenized(text.split(), lang)


@lists_translation_options
def translate(
    model: XLMEncoderDecoderModel,
    tokenizer: XLMTokenizer,
    texts: Iterable[str],
    *,
    source: str,
    target: str,
    progress: bool | None = False,
    **options: Unpack[TranslationKeywords],
) -> list[TranslatedText]:
    """Return the translations of texts, in order.

    Args:
        model: An encoder-decoder model.
        tokenizer: The tokenizer that belongs to it.
        texts: Raw texts, each one sentence.
        source: Name of the language of the texts.
        target: Name of the language to translate to.
        progress: Whether to show a progress bar; ``None`` shows it in notebooks and on a terminal only.
        **options: Attributes of ``TranslationOptions``, by name.

    Raises:
        InputError: ``texts`` is a single str; or a text cannot be translated, because it is empty, has more tokens than
            the model has positions, is not a str, or gets scores that are not finite (the message gives its index); or
            as for ``Translator``.
        LanguageError: The model or the tokenizer does not have a language.
    """
    return list(translate_stream(model, tokenizer, texts, source=source, target=target, progress=progress, **options))


@lists_translation_options
def translate_stream(
    model: XLMEncoderDecoderModel,
    tokenizer: XLMTokenizer,
    texts: Iterable[str],
    *,
    source: str,
    target: str,
    progress: bool | None = False,
    **options: Unpack[TranslationKeywords],
) -> Iterator[TranslatedText]:
    """Yield the results of ``translate`` in bounded memory, while texts are still read. The arguments are the same."""
    chosen = TranslationOptions(**options)
    bar = ProgressBar.of(texts, progress, unit="texts")
    translator = Translator(model, tokenizer, source=source, target=target, options=chosen, on_batch=bar.show_share)
    windows = read_ahead(checked_texts(texts), length_of, most=chosen.read_at_once)

    def results() -> Iterator[TranslatedText]:
        first = 0
        with bar:
            for window in bar.groups(windows):
                for index, result in enumerate(translator.translate_window(window), start=first):
                    if result.problem is not None:
                        raise InputError("a text cannot be translated", where=f"texts[{index}]", found=result.problem)
                    yield result
                first += len(window)

    return results()
