"""Texts to the log-probability of each of their tokens, a list at once or a corpus as a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any

from xlm.corpus.read_ahead import checked_texts, growing_windows, length_of, read_ahead
from xlm.errors import InputError
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.frames import frame_of, is_frame
from xlm.scoring.scorer import Scorer
from xlm.scoring.sentence import SentenceScore
from xlm.tokenizer.tokenizer import XLMTokenizer


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
            (the message names its index), the model is bidirectional, no model or not the tokenizer's, or an option is
            none of those.
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
        return frame_of(scorer, texts)  # type: ignore[no-any-return]
    return list(_results(scorer, read_ahead(checked_texts(texts), length_of)))


def score_stream(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, texts: Iterable[str], *, lang: str, **options: Any
) -> Iterator[SentenceScore]:
    """The same as ``score``, for corpora: results come while texts are still read, in order and in bounded memory.

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
    scorer = Scorer(model, tokenizer, lang=lang, **options)
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
