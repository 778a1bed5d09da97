"""Hidden states and attention weights of the words of texts.

Shapes: B rows of a batch, T tokens of a text with both special tokens, W words of the text, L returned hidden states, A
returned attentions, N heads, D model width.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from xlm._io.arguments import check_choice, check_count, check_flags, lists_options, shown
from xlm._io.progress import ProgressBar
from xlm.corpus.read_ahead import checked_texts, length_of, read_ahead
from xlm.errors import InputError
from xlm.model.lm import XLMWithLMHeadModel, eval_mode
from xlm.model.network import XLMModel
from xlm.scoring.scorer import check_language_name, check_pair, language_id
from xlm.scoring.text import Text
from xlm.tokenizer.tokenizer import XLMTokenizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

Array = np.ndarray[Any, np.dtype[np.floating[Any]]]

POOLS = ("mean", "first", "last")
"""Ways to make one vector from those of a word's tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """A word of the raw text, as in the result of ``score``.

    Attributes:
        text: The word.
        start: Index of its first character in the raw text.
        end: One past its last character.
        tokens: Number of tokens that begin in the word; 0 if the tokenizer drops all of its characters.
    """

    text: str
    start: int
    end: int
    tokens: int


@dataclass(frozen=True, kw_only=True, eq=False)
class WordVectors:
    """Hidden states of the W words of a text, and their attention if requested.

    Attributes:
        text: The raw text.
        lang: Its language.
        words: The words: those of ``score(...)[i].words``, in the same order.
        layers: The L layers of ``vectors``. 0 is the embeddings, n the output of the n-th layer.
        vectors: (W, L, D) hidden states, pooled over the tokens that begin in a word; float32, or float64 for a model
            of that type. NaN for a word without tokens.
        attentions: (A, N, W, W) attention weights from each word, by row, to each word, by column; of the layers in
            ``layers`` except 0, which has no attention. The weight from a word is the mean over its tokens, the weight
            to a word the sum over its tokens. A row adds up to 1 with the weight to the special tokens, which is not
            included; in a causal model, that is the weight to the opening ``</s>``. A word without tokens has a row of
            NaN and a column of zeros.
    """

    text: str
    lang: str
    words: tuple[Word, ...]
    layers: tuple[int, ...]
    vectors: Array
    attentions: Array | None = None

    def __repr__(self) -> str:
        shapes = f"vectors {self.vectors.shape}"
        if self.attentions is not None:
            shapes += f", attentions {self.attentions.shape}"
        return f"<WordVectors of {self.text!r}, lang {self.lang!r}, layers {self.layers}: {shapes}>"


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorOptions:
    """Options of ``word_vectors`` and ``word_vectors_stream``, as keyword arguments.

    Attributes:
        layers: The layers to return, from 0, the embeddings, to the number of the model's layers; negative numbers
            count from the last layer, -1. ``None`` for all.
        pool: How to make one vector from those of the tokens that begin in a word: ``"mean"``, or that of the
            ``"first"`` or ``"last"`` token. Attention is always pooled as ``WordVectors`` describes.
        attentions: Whether to return attention weights too.
        batch_size: Number of consecutive texts that the model sees at once.

    Raises:
        InputError: An option has a value that is not allowed. Layers are checked once the model is known.
    """

    layers: Sequence[int] | None = None
    pool: str = "mean"
    attentions: bool = False
    batch_size: int = 16

    def __post_init__(self) -> None:
        check_choice("pooling", POOLS, pool=self.pool)
        check_flags(attentions=self.attentions)
        check_count(batch_size=self.batch_size)


class VectorKeywords(TypedDict, total=False):
    """``VectorOptions`` as keyword arguments, for type checkers."""

    layers: Sequence[int] | None
    pool: str
    attentions: bool
    batch_size: int


@lists_options(VectorOptions)
def word_vectors(
    model: XLMWithLMHeadModel,
    tokenizer: XLMTokenizer,
    texts: Iterable[str],
    *,
    lang: str,
    progress: bool | None = False,
    **options: Unpack[VectorKeywords],
) -> list[WordVectors]:
    """Return the hidden states of the words of each text, one result per text, in order.

    A text is encoded as for ``score``, and seen by the model with both special tokens. The result of a text does not
    depend on the others, except through rounding. The model may be causal or bidirectional. In a causal model, the
    vectors of a word have seen the word itself and the words before it, while its surprisal is computed from the
    vectors of the token before it.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        texts: Raw texts.
        lang: Name of the language of all texts.
        progress: As for ``score``.
        **options: Attributes of ``VectorOptions``, by name.

    Raises:
        InputError: ``texts`` is a single str; a text is not a str or is longer than the model's positions (the message
            names its index); ``model`` and ``tokenizer`` are not a model and its tokenizer; or an option has a value
            that is not allowed.
        LanguageError: The model does not have the language, or the library that splits the language into words does
            not report their offsets.

    Source for the pooling of attention: Clark et al. (2019), "What does BERT look at?", section 4.1.
    """
    return list(word_vectors_stream(model, tokenizer, texts, lang=lang, progress=progress, **options))


@lists_options(VectorOptions)
def word_vectors_stream(
    model: XLMWithLMHeadModel,
    tokenizer: XLMTokenizer,
    texts: Iterable[str],
    *,
    lang: str,
    progress: bool | None = False,
    **options: Unpack[VectorKeywords],
) -> Iterator[WordVectors]:
    """Yield the results of ``word_vectors`` while texts are still being read, in order and in bounded memory.

    ``batch_size`` texts are read ahead. Arguments and errors are those of ``word_vectors``; an error in one text is
    raised before the results of its batch.
    """
    check_pair(model, tokenizer)
    check_language_name(lang)
    chosen = VectorOptions(**options)
    bar = ProgressBar.of(texts, progress, unit="texts")
    texts = checked_texts(texts)
    layers = _checked_layers(chosen.layers, model.config.n_layers)
    language = language_id(model, tokenizer, lang)

    def results() -> Iterator[WordVectors]:
        first = 0
        with bar:
            for batch in bar.groups(read_ahead(texts, length_of, most=chosen.batch_size)):
                encodings = [
                    _encode(model, tokenizer, text, lang=lang, where=f"texts[{first + number}]")
                    for number, text in enumerate(batch)
                ]
                yield from _batch_vectors(
                    model, batch, encodings, lang=lang, language=language, layers=layers, options=chosen
                )
                first += len(batch)

    return results()


def _checked_layers(layers: Any, count: int) -> tuple[int, ...]:
    if layers is None:
        return tuple(range(count + 1))
    is_list = isinstance(layers, list | tuple | range) and len(layers) > 0
    if not is_list or any(type(layer) is not int or not -count - 1 <= layer <= count for layer in layers):
        raise InputError(
            "no such layers",
            where="layers",
            found=repr(layers)[:80] if isinstance(layers, list | tuple | range) else shown(layers),
            expected=f"a list of ints from 0, the embeddings, to {count}, the last layer; or from {-count - 1} to -1",
        )
    return tuple(range(count + 1)[layer] for layer in layers)


def _encode(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, text: str, *, lang: str, where: str
) -> tuple[list[int], list[int | None]]:
    """Return the ids of a text, and for each of them the index of its word, ``None`` for the special tokens."""
    if not isinstance(text, str):
        raise InputError("a text is not a str", where=where, found=type(text).__name__, expected="str")
    ids, positions = tokenizer.encode(text, lang=lang), model.config.max_position_embeddings
    if len(ids) > positions:
        raise InputError(
            "a text is longer than the model's positions",
            where=where,
            found=f"{len(ids)} tokens: {text[:40]!r}…",
            expected=f"at most {positions}, with the special tokens at both ends",
            remedy="split it into sentences, which is what the model was trained on",
        )
    placed = Text(text, lang)
    starts = [start for start, _ in placed.words]
    begins = accumulate((begin for begin, _ in placed.token_spans(tokenizer)), max)
    return ids, [None, *(max(0, bisect_right(starts, begin) - 1) for begin in begins), None]


def _batch_vectors(
    model: XLMWithLMHeadModel,
    texts: Sequence[str],
    encodings: Sequence[tuple[list[int], list[int | None]]],
    *,
    lang: str,
    language: int | None,
    layers: tuple[int, ...],
    options: VectorOptions,
) -> list[WordVectors]:
    lengths = [len(ids) for ids, _ in encodings]
    padded = [ids + [model.config.pad_token_id] * (max(lengths) - len(ids)) for ids, _ in encodings]
    results = []
    with eval_mode(model), torch.inference_mode():
        # The forward of the model without its head: logits are not needed.
        output = XLMModel.forward(
            model,
            torch.tensor(padded, device=model.device),
            langs=language,
            lengths=torch.tensor(lengths),
            output_hidden_states=True,
            output_attentions=options.attentions,
        )
        assert output.hidden_states is not None
        dtype = torch.promote_types(model.dtype, torch.float32)
        for row, (text, (_, word_ids), T) in enumerate(zip(texts, encodings, lengths, strict=True)):
            spans = Text(text, lang).words
            is_in_WT = _membership(word_ids, len(spans)).to(model.device, dtype)
            hidden_LTD = torch.stack([output.hidden_states[layer][row, :T] for layer in layers]).to(dtype)
            vectors_WLD = (_pooling(is_in_WT, options.pool) @ hidden_LTD).transpose(0, 1)
            by_word_ANWW = None
            if output.attentions is not None:
                weights_NTT = [weights_BNTT[row, :, :T, :T] for weights_BNTT in output.attentions]
                weights_ANTT = torch.stack(weights_NTT)[[layer - 1 for layer in layers if layer > 0]].to(dtype)
                by_word_ANWW = _pooling(is_in_WT, "mean") @ weights_ANTT @ is_in_WT.T
            words = [
                Word(text=text[start:end], start=start, end=end, tokens=int(count))
                for (start, end), count in zip(spans, is_in_WT.sum(1).tolist(), strict=True)
            ]
            results.append(
                WordVectors(
                    text=text,
                    lang=lang,
                    words=tuple(words),
                    layers=layers,
                    vectors=vectors_WLD.cpu().numpy(),
                    attentions=None if by_word_ANWW is None else by_word_ANWW.cpu().numpy(),
                )
            )
    return results


def _membership(word_ids: Sequence[int | None], words: int) -> Tensor:
    """Return (W, T) bool: whether a token begins in a word."""
    numbers_T = torch.tensor([-1 if number is None else number for number in word_ids])
    return torch.arange(words)[:, None] == numbers_T


def _pooling(is_in_WT: Tensor, pool: str) -> Tensor:
    """Return (W, T) weights of the tokens in the vector of each word; NaN for words without tokens.

    Args:
        is_in_WT: (W, T), 1 where a token begins in a word, else 0.
        pool: One of ``POOLS``.
    """
    counts_WT = is_in_WT.cumsum(1)
    if pool == "first":
        is_in_WT = is_in_WT * (counts_WT == 1)
    elif pool == "last":
        is_in_WT = is_in_WT * (counts_WT == counts_WT[:, -1:])
    return is_in_WT / is_in_WT.sum(1, keepdim=True)
