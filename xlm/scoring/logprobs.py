"""Log-probabilities of given tokens, in windows and in batches of sequences of about one length.

Shapes: B rows of a batch, T fed positions, N scored positions of a batch, D model width, K most likely tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate, islice
from typing import Any

import torch
from torch import Tensor

from xlm.errors import InputError
from xlm.model.head import TargetScores, chunked_logprobs
from xlm.model.lm import XLMWithLMHeadModel
from xlm.scoring.malloc_trim import MallocTrim

_BATCH_TOKENS_CPU = 1024
_BATCH_TOKENS_GPU = 32_768


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenScores:
    """Scores of the tokens of one sequence, except the opening one.

    Attributes:
        logprobs: Nats.
        ranks: From 1, when asked for.
        entropies: Nats, when asked for.
        top: Ids and log-probabilities of the most likely tokens at each place, best first, when asked for.
    """

    logprobs: tuple[float, ...]
    ranks: tuple[int, ...] | None = None
    entropies: tuple[float, ...] | None = None
    top: tuple[tuple[tuple[int, float], ...], ...] | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of one sequence that the model sees at once.

    Attributes:
        sequence: Number of the sequence.
        start: Its first token that is fed.
        end: One past its last token that is fed; the token at ``end`` is the last that is predicted.
        first: The first fed token, counted in the sequence, whose prediction counts; those before it are context.
    """

    sequence: int
    start: int
    end: int
    first: int


def token_logprobs(model: XLMWithLMHeadModel, ids: Sequence[int], language: str | int | None) -> Tensor:
    """Return the log-probability of every token but the first, given all tokens before it.

    Args:
        model: A causal model, in evaluation mode, without gradients.
        ids: T + 1 token ids, T at least 1 and at most the model's positions.
        language: Name or id of their language; ``None`` for a model without language embeddings.

    Returns:
        (T,) float32, nats; on the model's device.

    Raises:
        InputError: More tokens than the model has positions, or ids that are not in its vocabulary.
    """
    # The last token predicts nothing, so it is not fed: that leaves its position to one token more.
    return _scores_of_batch(model, [ids], [Window(0, 0, len(ids) - 1, 0)], language).logprobs


def score_sequences(
    model: XLMWithLMHeadModel,
    sequences: Sequence[Sequence[int]],
    language: str | int | None,
    *,
    stride: int | None = None,
    batch_tokens: int | None = None,
    batch_size: int | None = None,
    ranks: bool = False,
    entropies: bool = False,
    top: int = 0,
) -> list[TokenScores]:
    """Return the log-probability of every token but the first of each sequence, given the tokens before it.

    Sequences of similar length share a batch, so that there is hardly any padding, and only positions that are scored
    reach the head. Sequences longer than the model's positions are scored in windows, see ``windows_of``.

    Args:
        model: A causal model, in evaluation mode, without gradients.
        sequences: Ids, at least two each.
        language: Name or id of their language; ``None`` for a model without language embeddings.
        stride: How many tokens each further window scores; ``None`` for half of the model's positions.
        batch_tokens: Maximum number of tokens in a batch; ``None`` for a default by device.
        batch_size: Maximum number of rows in a batch; ``None`` for no limit.
        ranks: Also give the rank of each token.
        entropies: Also give the entropy of each prediction.
        top: Also give this many of the most likely tokens at each place.
    """
    positions = model.config.max_position_embeddings
    stride = checked_stride(stride, positions)
    counts = [len(ids) - 1 for ids in sequences]
    starts = [0, *accumulate(counts)]
    windows = [
        window
        for sequence, count in enumerate(counts)
        for window in windows_of(sequence, count, positions=positions, stride=stride)
    ]
    if batch_tokens is None:
        batch_tokens = _BATCH_TOKENS_CPU if model.device.type == "cpu" else _BATCH_TOKENS_GPU
    result = _empty_scores(model, starts[-1], ranks=ranks, entropies=entropies, top=top)
    lengths = [window.end - window.start for window in windows]
    memory = MallocTrim()
    for rows in batches_by_length(lengths, batch_tokens=batch_tokens, batch_size=batch_size):
        batch = [windows[row] for row in rows]
        scores = _scores_of_batch(model, sequences, batch, language, ranks=ranks, entropies=entropies, top=top)
        places_N = torch.tensor([place + starts[w.sequence] for w in batch for place in range(w.first, w.end)])
        for field in fields(TargetScores):
            if (values := getattr(scores, field.name)) is not None:
                getattr(result, field.name)[places_N] = values.cpu()
        memory.trim_if_grown()

    def of_each(values: Iterable[Any] | None) -> list[Any]:
        if values is None:
            return [None] * len(counts)
        each = iter(values)
        return [tuple(islice(each, count)) for count in counts]

    columns = [
        None if values is None else values.tolist() for values in (result.logprobs, result.ranks, result.entropies)
    ]
    if result.top_ids is not None and result.top_logprobs is not None:
        pairs = zip(result.top_ids.tolist(), result.top_logprobs.tolist(), strict=True)
        columns.append([tuple(zip(ids, logprobs, strict=True)) for ids, logprobs in pairs])
    else:
        columns.append(None)
    return [
        TokenScores(logprobs=logprobs, ranks=of_ranks, entropies=of_entropies, top=of_top)
        for logprobs, of_ranks, of_entropies, of_top in zip(*map(of_each, columns), strict=True)
    ]


def checked_stride(stride: int | None, positions: int) -> int:
    """Return the stride to use: half of the model's positions if none is given.

    Raises:
        InputError: Not a whole number from 1 to ``positions``.
    """
    if stride is None:
        return max(1, positions // 2)
    if type(stride) is not int or not 1 <= stride <= positions:
        raise InputError(
            "invalid stride",
            where="stride",
            found=repr(stride),
            expected=f"from 1 to the model's {positions} positions",
        )
    return stride


def windows_of(sequence: int, predicted: int, *, positions: int, stride: int) -> list[Window]:
    """Return windows that predict each token of a sequence, except the opening one, once.

    A sequence that fits is one window. Of a longer one the first window begins at the opening token and fills all
    positions; each next one scores up to ``stride`` tokens more and is filled with what stands before them. So every
    window is full, and a token behind the first window has at least ``positions - stride`` tokens of context besides
    the one right before it.

    Args:
        sequence: Number of the sequence.
        predicted: How many tokens it has beside the opening one, at least 1.
        positions: How many tokens can be fed at once.
        stride: From 1 to ``positions``.
    """
    done = min(predicted, positions)
    windows = [Window(sequence, 0, done, 0)]
    while done < predicted:
        end = min(done + stride, predicted)
        windows.append(Window(sequence, end - positions, end, done))
        done = end
    return windows


def batches_by_length(lengths: Sequence[int], *, batch_tokens: int, batch_size: int | None) -> list[list[int]]:
    """Group rows of similar length, longest first, so that a lack of memory shows at once.

    Args:
        lengths: Number of tokens of each row.
        batch_tokens: Maximum number of tokens in a batch, with padding; a longer row is a batch of its own.
        batch_size: Maximum number of rows in a batch; ``None`` for no limit.

    Returns:
        Batches of row numbers; each number once.
    """
    batches: list[list[int]] = []
    longest = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        full = not batches or longest * (len(batches[-1]) + 1) > batch_tokens or len(batches[-1]) == batch_size
        if full:
            batches.append([])
            longest = lengths[row]
        batches[-1].append(row)
    return batches


def _scores_of_batch(
    model: XLMWithLMHeadModel,
    sequences: Sequence[Sequence[int]],
    batch: Sequence[Window],
    language: str | int | None,
    **wanted: Any,
) -> TargetScores:
    lengths = [window.end - window.start for window in batch]
    T = max(lengths)
    fed: list[list[int]] = []
    targets: list[int] = []
    scored: list[int] = []  # places in the flattened batch
    for row, w in enumerate(batch):
        ids = sequences[w.sequence]
        fed.append([*ids[w.start : w.end], *[model.config.pad_token_id] * (T - lengths[row])])
        targets += ids[w.first + 1 : w.end + 1]
        scored += range(row * T + w.first - w.start, row * T + lengths[row])
    fed_BT = torch.tensor(fed, device=model.device)
    hidden_BTD = model.hidden(fed_BT, langs=language, lengths=torch.tensor(lengths))
    hidden_ND = hidden_BTD.flatten(0, 1)[torch.tensor(scored, device=model.device)]
    return chunked_logprobs(
        model.head,
        hidden_ND,
        torch.tensor(targets, device=model.device),
        vocab_size=len(model.transformer.embeddings.word.weight),
        **wanted,
    )


def _empty_scores(model: XLMWithLMHeadModel, count: int, *, ranks: bool, entropies: bool, top: int) -> TargetScores:
    K = min(top, model.config.vocab_size)
    wide = torch.promote_types(model.dtype, torch.float32)
    return TargetScores(
        logprobs=torch.empty(count, dtype=wide),
        ranks=torch.empty(count, dtype=torch.int64) if ranks else None,
        entropies=torch.empty(count, dtype=wide) if entropies else None,
        top_ids=torch.empty(count, K, dtype=torch.int64) if top else None,
        top_logprobs=torch.empty(count, K, dtype=wide) if top else None,
    )
