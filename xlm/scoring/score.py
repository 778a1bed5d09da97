"""Texts to the log-probability of each of their tokens.

Shapes: T positions that are fed, V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from xlm.errors import InputError, XLMWarning
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.logprobs import token_logprobs
from xlm.tokenizer.tokenizer import XLMTokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class SentenceScore:
    """What a model gives to one text. The opening token is not predicted, so it is in none of the tuples.

    Attributes:
        text: The text as it was given.
        lang: Its language.
        tokens: The predicted tokens in ``</w>`` notation, n of them, the closing ``</s>`` included.
        ids: Their n ids.
        logprobs: Their n log-probabilities in nats, each given all that stands before the token.
    """

    text: str
    lang: str
    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]

    @property
    def logprob(self) -> float:
        """Log-probability of the whole text in nats: the sum of ``logprobs``."""
        return sum(self.logprobs)


def score(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, texts: Iterable[str], *, lang: str
) -> list[SentenceScore]:
    """The log-probability of every token of some texts, one result a text, in their order.

    Each text is one sentence to the model: it is encoded with the tokenizer's special tokens at both ends, starts at
    position 0 and sees no other text. The log-softmax is computed in float32, without dropout; each module of
    the model is afterwards in the mode it was in before.

    Args:
        model: A causal model.
        tokenizer: The tokenizer that belongs to it.
        texts: Raw texts, each at most as long as the model has positions, counted in tokens with the opening one and
            without the closing one. An empty text scores its closing ``</s>``.
        lang: Name of the language of all of them.

    Raises:
        InputError: ``texts`` is a single str, one of them is not a str, too long or not of this model's vocabulary
            (the message names its index), or the model is bidirectional.
        LanguageError: A language that the model does not have.

    Source: paper section 3.2 (CLM); the original's ``EncoderDecoderEvaluator.evaluate_clm``, one sentence at a time.
    """
    if isinstance(texts, str):
        raise InputError(
            "texts is a single str, which would be scored letter by letter",
            where="texts",
            found=f"a str of {len(texts)} characters",
            expected="a list of texts, or another iterable of them",
            remedy="for one text: score(model, tokenizer, [text], lang=...)",
        )
    if not model.config.causal:
        raise InputError(
            "a bidirectional model gives no next-word probabilities: it sees the word that it is to predict",
            where="model",
            found="causal = False",
            expected="a causal model",
            remedy="load it with causal=True, if it was trained as a causal model",
        )
    language_id = _language_id(model, tokenizer, lang)
    results = []
    with _evaluating(model), torch.inference_mode():
        for i, text in enumerate(texts):
            results.append(_score(model, tokenizer, text, lang, language_id, f"texts[{i}]"))
    return results


def _language_id(model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, lang: str) -> int | None:
    config = model.config
    if config.lang2id:
        return config.language_id(lang)
    if not config.has_language_embeddings:
        return None
    # The model's file names no languages; the tokenizer's may.
    return config.language_id((tokenizer.lang2id or {}).get(lang, lang))


def _score(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, text: str, lang: str, language_id: int | None, where: str
) -> SentenceScore:
    config = model.config
    if not isinstance(text, str):
        raise InputError("a text is not a str", where=where, found=type(text).__name__, expected="str")
    ids = tokenizer.encode(text, lang=lang)
    if len(ids) - 1 > config.max_position_embeddings:
        raise InputError(
            "a text is longer than the model's positions",
            where=where,
            found=f"{len(ids) - 1} tokens, the closing one aside: {text[:40]!r}…",
            expected=f"at most {config.max_position_embeddings}",
            remedy="split it into sentences, which is what the model was trained on",
        )
    if max(ids) >= config.vocab_size:
        raise InputError(
            "a token is not in the model's vocabulary",
            where=where,
            found=f"id {max(ids)}",
            expected=f"ids from 0 to {config.vocab_size - 1}",
            remedy="use the tokenizer that belongs to this model",
        )
    if ids[0] == config.bos_token_id != config.eos_token_id:
        _warn_about_bos(tokenizer.bos_token)
    logprobs_T = token_logprobs(model, ids, language_id)
    return SentenceScore(
        text=text,
        lang=lang,
        tokens=tuple(tokenizer.convert_ids_to_tokens(ids[1:])),
        ids=tuple(ids[1:]),
        logprobs=tuple(logprobs_T.tolist()),
    )


def _warn_about_bos(token: str) -> None:
    warnings.warn(
        f"texts are scored behind {token}, as this tokenizer encodes them; the original never trained that token, and "
        "behind it the first words score much worse. For the sentences of the training, </s> … </s>: "
        "XLMTokenizer.from_pretrained(..., bos_token='</s>')",
        XLMWarning,
        stacklevel=4,
    )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switches dropout off, and afterwards puts each module back into its own mode (parts may be frozen)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
