"""Log-probabilities of texts: of a list at once, or of a corpus as a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Any

from xlm._io.progress import ProgressBar
from xlm.corpus.read_ahead import checked_texts, growing_windows, read_ahead
from xlm.errors import InputError
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.display import ResultList
from xlm.scoring.frames import is_frame, score_frame
from xlm.scoring.options import ScoringKeywords, ScoringOptions, shows_scoring_options
from xlm.scoring.scorer import Scorer, SentenceScore
from xlm.scoring.text import Text, length_with_prefix, texts_with, with_entries
from xlm.tokenizer.alignment import Span
from xlm.tokenizer.tokenizer import XLMTokenizer

if TYPE_CHECKING:
    from typing_extensions import Unpack


@shows_scoring_options
def score(
    model: XLMWithLMHeadModel,
    tokenizer: XLMTokenizer,
    texts: Iterable[str],
    *,
    lang: str | Iterable[str | Sequence[str]],
    words: Iterable[Sequence[str]] | None = None,
    regions: Iterable[Sequence[Span]] | None = None,
    prefixes: Iterable[str] | None = None,
    progress: bool | None = False,
    **options: Unpack[ScoringKeywords],
) -> list[SentenceScore]:
    """Return the log-probability of every token of each text, one result per text, in order.

    Each text is one sentence to the model: it is encoded with the special tokens at both ends and starts at position 0.
    Texts of similar length share a batch. The result of a text does not depend on the others, except through rounding
    in the type that the model computes in. The logits and the log-softmax are computed in float32, without dropout.
    Afterwards, each module of the model is back in its previous mode (training or evaluation).

    Args:
        model: A causal model.
        tokenizer: Its tokenizer.
        texts: Raw texts. For an empty text, only the closing ``</s>`` is scored. For a pandas ``Series`` or
            ``DataFrame``, the result is that of ``score_frame`` by sentence.
        lang: Name of the language of all texts, or for each text a name or a list of names, one for each word, those of
            its prefix first. Each stretch of words of one language is tokenised by itself, by the rules of that
            language. A token has the language of its word, and the closing ``</s>`` that of the last word.
        words: For each text, its words, if they are not simply what stands between whitespace. One blank joins the
            words to the text, which is tokenised as a whole. ``result.words`` has one entry for each, in order; an
            empty word has no tokens.
        regions: For each text, spans of characters ``(start, end)``, in any order. ``result.regions`` has one entry for
            each.
        prefixes: For each text, what it is conditioned on. One blank joins prefix and text, which are tokenised as a
            whole. Only tokens that begin in the text are scored. An empty prefix leaves the text as it is.
        progress: Whether to show a progress bar; ``None`` shows it in notebooks and on a terminal only.
        **options: Attributes of ``ScoringOptions``, by name.

    Raises:
        InputError: ``texts`` is a single str; a text is not a str, is too long or does not fit the vocabulary (the
            message names its index); words, regions, prefixes or languages do not fit the texts; the model is
            bidirectional; ``model`` and ``tokenizer`` are not a model and its tokenizer; or an option has a value that
            is not allowed.
        LanguageError: The model does not have the language, or the languages of a text do not fit its words.

    Source: paper section 3.2 (CLM); the original's ``EncoderDecoderEvaluator.evaluate_clm``, one sentence at a time.
    """
    if is_frame(texts):
        common: Any = lang
        own_languages = None if isinstance(lang, str | None) else lang
        _check_alone(lang=own_languages, words=words, regions=regions, prefixes=prefixes)
        return score_frame(model, tokenizer, texts, lang=common, progress=progress, **options)  # type: ignore[no-any-return]
    bar = ProgressBar.of(texts, progress, unit="texts")
    scorer = _scorer(model, tokenizer, lang, bar, options)
    items = texts_with(checked_texts(texts), lang=lang, words=words, regions=regions, prefixes=prefixes)
    return ResultList(_results(scorer, read_ahead(items, length_with_prefix), bar))


@shows_scoring_options
def score_stream(
    model: XLMWithLMHeadModel,
    tokenizer: XLMTokenizer,
    texts: Iterable[str],
    *,
    lang: str | Iterable[str | Sequence[str]],
    words: Iterable[Sequence[str]] | None = None,
    regions: Iterable[Sequence[Span]] | None = None,
    prefixes: Iterable[str] | None = None,
    progress: bool | None = False,
    **options: Unpack[ScoringKeywords],
) -> Iterator[SentenceScore]:
    """Yield the results of ``score`` while texts are still being read, in order and in bounded memory.

    Up to 4,096 texts, or about a million characters, are read ahead, since texts of similar length share a batch. A
    source without ``len`` may be slow: its first text is scored as soon as it is read, then the next two, the next
    four, and so on. To get the result of each text before the next one is read, call ``score`` with one text at a time.

    Arguments and errors are those of ``score``. Texts, and what is given for each of them, are read as results are
    taken; an error in one text is raised after the results before it.
    """
    bar = ProgressBar.of(texts, progress, unit="texts")
    scorer = _scorer(model, tokenizer, lang, bar, options)
    windows = read_ahead if isinstance(texts, Sized) else growing_windows
    items = texts_with(checked_texts(texts), lang=lang, words=words, regions=regions, prefixes=prefixes)
    return _results(scorer, windows(items, length_with_prefix), bar)


@shows_scoring_options
def score_documents(
    model: XLMWithLMHeadModel,
    tokenizer: XLMTokenizer,
    documents: Iterable[Iterable[str]],
    *,
    lang: str | Iterable[str | Iterable[str | Sequence[str]]],
    words: Iterable[Iterable[Sequence[str]]] | None = None,
    regions: Iterable[Iterable[Sequence[Span]]] | None = None,
    progress: bool | None = False,
    **options: Unpack[ScoringKeywords],
) -> list[list[SentenceScore]]:
    """Return the scores of the sentences of each document, each sentence given the sentences before it.

    A document is one sequence to the model, with ``</s>`` between sentences, as in training. The ``</s>`` behind a
    sentence is its closing token. Every token is scored once, with as much of the document before it as the model's
    positions and ``stride`` allow. A smaller stride gives more context and takes longer.

    Args:
        model: A causal model.
        tokenizer: Its tokenizer.
        documents: For each document, its sentences in order.
        lang: Name of the language of all documents, or for each document a name or a list of what ``score`` takes: for
            each sentence a name or a list of names, one for each word.
        words: For each document what ``score`` takes.
        regions: For each document what ``score`` takes.
        progress: As for ``score``; the bar counts sentences.
        **options: Attributes of ``ScoringOptions``, by name. ``too_long`` applies to whole documents. With
            ``closing=False``, ``</s>`` still stands between sentences, but is not scored.

    Returns:
        For each document, in order, one result for each sentence.

    Raises:
        InputError: As for ``score``; or a document is a single str.
        LanguageError: As for ``score``.
    """
    bar = ProgressBar(progress, unit="sentences", total=_number_of_sentences(documents))
    scorer = _scorer(model, tokenizer, lang, bar, options)
    own = {"lang": None if isinstance(lang, str | None) else lang, "words": words, "regions": regions}
    items = (
        _sentences(sentences, where=f"documents[{i}]", **{"lang": lang, **arguments})
        for i, (sentences, arguments) in enumerate(with_entries(checked_texts(documents), what="documents", **own))
    )
    return ResultList(
        _documents(scorer, read_ahead(items, lambda sentences: sum(map(length_with_prefix, sentences))), bar)
    )


def _scorer(model: Any, tokenizer: Any, lang: Any, bar: ProgressBar, options: ScoringKeywords) -> Scorer:
    # If each text has its own language, there is no common one to check.
    common = () if not isinstance(lang, str) and hasattr(type(lang), "__iter__") else lang
    return Scorer(model, tokenizer, lang=common, options=ScoringOptions(**options), on_batch=bar.show_share)


def _number_of_sentences(documents: object) -> int | None:
    if isinstance(documents, Sequence) and all(isinstance(sentences, Sized) for sentences in documents):
        return sum(map(len, documents))
    return None


def _sentences(sentences: Any, *, where: str, **arguments: Any) -> list[Text]:
    try:
        return list(texts_with(checked_texts(sentences), **arguments))
    except InputError as error:
        error.where = f"{where}: {error.where}"
        raise


def _documents(scorer: Scorer, windows: Iterable[list[list[Text]]], bar: ProgressBar) -> Iterator[list[SentenceScore]]:
    with bar:
        groups = bar.groups(windows, lambda documents: sum(map(len, documents)))
        yield from map(ResultList, scorer.document_windows(groups, name=lambda i, j: f"documents[{i}][{j}]"))


def _results(scorer: Scorer, windows: Iterable[list[Text]], bar: ProgressBar) -> Iterator[SentenceScore]:
    with bar:
        yield from scorer.score_windows(bar.groups(windows))


def _check_alone(**arguments: object) -> None:
    if given := [name for name, value in arguments.items() if value is not None]:
        raise InputError(
            "a data frame holds these in its columns",
            where=", ".join(given),
            found="a DataFrame or Series as texts",
            remedy="score_frame(..., NAME_column=…), or pass a list of texts",
        )
