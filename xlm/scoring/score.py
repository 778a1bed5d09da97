"""Texts to the log-probability of each token, for a list at once or a corpus as a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING

from xlm.corpus.read_ahead import checked_texts, growing_windows, length_of, read_ahead
from xlm.errors import InputError
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.frames import frame_of, is_frame
from xlm.scoring.options import ScoringKeywords, ScoringOptions, shows_scoring_options
from xlm.scoring.scorer import Scorer
from xlm.scoring.sentence import SentenceScore
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

    Each text is one sentence to the model: it is encoded with the tokenizer's special tokens at both ends, starts at
    position 0 and sees no other text. Texts of one length share a batch; what a text gets does not depend on the
    others, up to rounding in the type that the model computes in. The logits and the log-softmax are computed in
    float32, without dropout; each module of the model is afterwards in the mode it was in before.

    Args:
        model: A causal model.
        tokenizer: The tokenizer that belongs to it.
        texts: Raw texts. An empty text scores its closing ``</s>``. For a ``Series`` or ``DataFrame`` of pandas the
            result is what ``score_frame`` gives, by sentence.
        lang: Name of the language of all texts.
        **options: Attributes of ``ScoringOptions``, by name; it says what each does.

    Raises:
        InputError: ``texts`` is a single str, one of them is not a str, too long or not of this model's vocabulary
            (the message names its index), the model is bidirectional, no model or not the tokenizer's, or an option has
            a value that is not allowed.
        LanguageError: A language that the model does not have.

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

    Texts are read ahead, up to 4,096 or about a million characters, since those of one length share a batch. From a
    source that may be slow, one that has no ``len``, the first text is scored once it is read, then the next two, the
    next four, and so on. For the result of each text before the next one is read, ``score`` takes one at a time.

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
