"""Log-probabilities of texts: of a list at once, or of a corpus as a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING

from xlm.corpus.read_ahead import checked_texts, growing_windows, length_of, read_ahead
from xlm.errors import InputError
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.frames import frame_of, is_frame
from xlm.scoring.options import ScoringKeywords, ScoringOptions, shows_scoring_options
from xlm.scoring.scorer import Scorer, SentenceScore
from xlm.tokenizer.tokenizer import XLMTokenizer

if TYPE_CHECKING:
    from typing_extensions import Unpack


@shows_scoring_options
def score(
    model: XLMWithLMHeadModel,
    tokenizer: XLMTokenizer,
    texts: Iterable[str],
    *,
    lang: str,
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
        lang: Name of the language of all texts.
        **options: Attributes of ``ScoringOptions``, by name.

    Raises:
        InputError: ``texts`` is a single str; a text is not a str, is too long or does not fit the vocabulary (the
            message names its index); the model is bidirectional; ``model`` and ``tokenizer`` are not a model and its
            tokenizer; or an option has a value that is not allowed.
        LanguageError: The model does not have the language.

    Source: paper section 3.2 (CLM); the original's ``EncoderDecoderEvaluator.evaluate_clm``, one sentence at a time.
    """
    scorer = Scorer(model, tokenizer, lang=lang, options=ScoringOptions(**options))
    if is_frame(texts):
        return frame_of(scorer, texts)  # type: ignore[no-any-return]
    return list(_results(scorer, read_ahead(checked_texts(texts), length_of)))


@shows_scoring_options
def score_stream(
    model: XLMWithLMHeadModel,
    tokenizer: XLMTokenizer,
    texts: Iterable[str],
    *,
    lang: str,
    **options: Unpack[ScoringKeywords],
) -> Iterator[SentenceScore]:
    """Yield the results of ``score`` while texts are still being read, in order and in bounded memory.

    Up to 4,096 texts, or about a million characters, are read ahead, since texts of similar length share a batch. A
    source without ``len`` may be slow: its first text is scored as soon as it is read, then the next two, the next
    four, and so on. To get the result of each text before the next one is read, call ``score`` with one text at a time.

    Args:
        model: As for ``score``.
        tokenizer: As for ``score``.
        texts: As for ``score``, read as results are taken.
        lang: As for ``score``.
        **options: As for ``score``.

    Raises:
        InputError: As for ``score``; an error in one text is raised after the results before it.
        LanguageError: The model does not have the language.
    """
    scorer = Scorer(model, tokenizer, lang=lang, options=ScoringOptions(**options))
    windows = read_ahead if isinstance(texts, Sized) else growing_windows
    return _results(scorer, windows(checked_texts(texts), length_of))


def _results(scorer: Scorer, windows: Iterable[list[str]]) -> Iterator[SentenceScore]:
    first = 0
    for window in windows:
        for result in scorer.score_window(window, first=first):
            if isinstance(result, InputError):
                raise result
            yield result
        first += len(window)
