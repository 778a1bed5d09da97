"""Log-probabilities of the tokens of id sequences.

A sequence longer than the model's positions is scored in overlapping windows. Windows of similar length share a batch.

Shapes: B rows of a batch, T fed positions, N scored positions of a batch, D model width, K most likely tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from xlm._io.memory import MallocTrim
from xlm.errors import InputError
from xlm.model.head import TargetScores, chunked_logprobs
from xlm.model.lm import XLMWithLMHeadModel

Languages = str | int | None | Sequence[int | Sequence[int]]
"""The language of all sequences; or for each sequence an id, or the ids of its tokens."""

_BATCH_TOKENS_CPU = 512
_BATCH_TOKENS_GPU = 32_768


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenScores:
    """Scores of the tokens of one sequence, except those that are given.

    Attributes:
        logprobs: Log-probabilities in nats.
        ranks: Ranks from 1, if requested.
        entropies: Entropies of the predictions in nats, if requested.
        top: Ids and log-probabilities of the most likely tokens at each position, best first, if requested.
        windows: Number of windows that the sequence was scored in.
    """

    logprobs: tuple[float, ...]
    ranks: tuple[int, ...] | None = None
    entropies: tuple[float, ...] | None = None
    top: tuple[tuple[tuple[int, float], ...], ...] | None = None
    windows: int = 1


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of one sequence that the model sees at once.

    Attributes:
        sequence: Index of the sequence.
        start: Index of the first token that the model sees.
        end: One past the index of the last token that the model sees. The token at ``end`` is the last one predicted.
        first: Index of the first predicted token whose score counts. The tokens before it are context.
    """

    sequence: int
    start: int
    end: int
    first: int


def token_logprobs(model: XLMWithLMHeadModel, ids: Sequence[int], language: str | int | None) -> Tensor:
    """Return the log-probability of every token but the first, given all tokens before it.

    Args:
        model: A causal model in evaluation mode, without gradients.
        ids: T + 1 token ids, T at least 1 and at most the model's positions.
        language: Name or id of their language; ``None`` for a model without language embeddings.

    Returns:
        (T,) float32, nats, on the model's device.

    Raises:
        InputError: There are more tokens than positions, or ids outside the vocabulary.
    """
    # The last token predicts nothing and is not fed to the model, which leaves room for one more token.
    return _score_batch(model, [ids], [Window(0, 0, len(ids) - 1, 0)], language).logprobs


def score_sequences(
    model: XLMWithLMHeadModel,
    sequences: Sequence[Sequence[int]],
    language: Languages,
    *,
    given: Sequence[int] | None = None,
    stride: int | None = None,
    batch_tokens: int | None = None,
    batch_size: int | None = None,
    ranks: bool = False,
    entropies: bool = False,
    top: int = 0,
    on_batch: Callable[[float], None] | None = None,
) -> list[TokenScores]:
    """Return the log-probability of every token that is not given of each sequence, given the tokens before it.

    Args:
        model: A causal model in evaluation mode, without gradients.
        sequences: Ids, at least one in each sequence.
        language: Name or id of their language, or for each sequence an id or the ids of its tokens; ``None`` for a
            model without language embeddings.
        given: For each sequence, the number of tokens at its start that are context only; ``None`` for 1 each.
        stride: Number of tokens that each further window scores, see ``windows_of``; ``None`` for half of the model's
            positions.
        batch_tokens: Maximum number of tokens in a batch; ``None`` for the default of the device.
        batch_size: Maximum number of rows in a batch; ``None`` for no limit.
        ranks: Whether to return the rank of each token.
        entropies: Whether to return the entropy of each prediction.
        top: Number of most likely tokens to return at each position.
        on_batch: Called after each batch with the share of the tokens that are scored, from 0 to 1.
    """
    positions = model.config.max_position_embeddings
    stride = checked_stride(stride, positions)
    skipped = [0] * len(sequences) if given is None else [count - 1 for count in given]
    counts = [len(ids) - 1 for ids in sequences]
    starts = [0, *accumulate(count - its_skipped for count, its_skipped in zip(counts, skipped, strict=True))]
    windows_by_sequence = [
        windows_of(sequence, count, positions=positions, stride=stride, skipped=its_skipped)
        for sequence, (count, its_skipped) in enumerate(zip(counts, skipped, strict=True))
    ]
    windows = [window for each in windows_by_sequence for window in each]
    if batch_tokens is None:
        batch_tokens = _BATCH_TOKENS_CPU if model.device.type == "cpu" else _BATCH_TOKENS_GPU
    result = _empty_scores(model, starts[-1], ranks=ranks, entropies=entropies, top=top)
    lengths = [window.end - window.start for window in windows]
    memory = MallocTrim()
    scored = 0
    for rows in batches_by_length(lengths, batch_tokens=batch_tokens, batch_size=batch_size):
        batch = [windows[row] for row in rows]
        scores = _score_batch(model, sequences, batch, language, ranks=ranks, entropies=entropies, top=top)
        offsets = [starts[w.sequence] - skipped[w.sequence] for w in batch]
        places_N = torch.tensor(
            [place + offset for w, offset in zip(batch, offsets, strict=True) for place in range(w.first, w.end)]
        )
        for field in fields(TargetScores):
            if (values := getattr(scores, field.name)) is not None:
                getattr(result, field.name)[places_N] = values.cpu()
        memory.trim_if_grown()
        scored += len(places_N)
        if on_batch is not None:
            on_batch(scored / starts[-1])

    def by_sequence(values: list[Any] | None) -> list[Any]:
        return [None if values is None else tuple(values[start:end]) for start, end in pairwise(starts)]

    columns = [
        None if values is None else values.tolist() for values in (result.logprobs, result.ranks, result.entropies)
    ]
    if result.top_ids is not None and result.top_logprobs is not None:
        pairs = zip(result.top_ids.tolist(), result.top_logprobs.tolist(), strict=True)
        columns.append([tuple(zip(ids, logprobs, strict=True)) for ids, logprobs in pairs])
    else:
        columns.append(None)
    return [
        TokenScores(
            logprobs=logprobs, ranks=its_ranks, entropies=its_entropies, top=its_top, windows=max(1, len(its_windows))
        )
        for logprobs, its_ranks, its_entropies, its_top, its_windows in zip(
            *map(by_sequence, columns), windows_by_sequence, strict=True
        )
    ]


def checked_stride(stride: int | None, positions: int) -> int:
    """Return the stride, by default half of the model's positions.

    Raises:
        InputError: The stride is not an int from 1 to ``positions``.
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


def windows_of(sequence: int, predicted: int, *, positions: int, stride: int, skipped: int = 0) -> list[Window]:
    """Return windows that predict each token of a sequence, except the opening and the skipped ones, once.

    A sequence that fits is one window. Otherwise the first window begins at the opening token and fills all positions.
    Each further window scores up to ``stride`` more tokens, and is filled with the tokens before them as context. Every
    token predicted after the first window thus has at least ``positions - stride + 1`` tokens of context. Skipped
    tokens do not move the windows; a window that would predict only skipped tokens is left out.

    Args:
        sequence: Index of the sequence.
        predicted: Number of its tokens besides the opening one.
        positions: Number of tokens that can be fed at once.
        stride: From 1 to ``positions``.
        skipped: Number of tokens behind the opening one that are only context.
    """
    done = min(predicted, positions)
    windows = [Window(sequence, 0, done, skipped)]
    while done < predicted:
        end = min(done + stride, predicted)
        windows.append(Window(sequence, end - positions, end, max(done, skipped)))
        done = end
    return [window for window in windows if window.first < window.end]


def batches_by_length(lengths: Sequence[int], *, batch_tokens: int, batch_size: int | None) -> list[list[int]]:
    """Group rows of similar length, the longest first, so that the first batch shows whether memory suffices.

    Args:
        lengths: Number of tokens of each row.
        batch_tokens: Maximum number of tokens in a batch, with padding; a longer row is a batch of its own.
        batch_size: Maximum number of rows in a batch; ``None`` for no limit.

    Returns:
        Batches of row indices, each index once.
    """
    batches: list[list[int]] = []
    longest = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not batches or longest * (len(batches[-1]) + 1) > batch_tokens or len(batches[-1]) == batch_size:
            batches.append([])
            longest = lengths[row]
        batches[-1].append(row)
    return batches


def _score_batch(
    model: XLMWithLMHeadModel,
    sequences: Sequence[Sequence[int]],
    batch: Sequence[Window],
    language: Languages,
    **requested: Any,
) -> TargetScores:
    device = model.device
    lengths = [window.end - window.start for window in batch]
    T = max(lengths)
    fed: list[list[int]] = []
    targets: list[int] = []
    scored: list[int] = []  # indices of the scored positions in the flattened batch
    for row, w in enumerate(batch):
        ids = sequences[w.sequence]
        fed.append([*ids[w.start : w.end], *[model.config.pad_token_id] * (T - lengths[row])])
        targets += ids[w.first + 1 : w.end + 1]
        scored += range(row * T + w.first - w.start, row * T + lengths[row])
    langs = language if isinstance(language, str | int | None) else _languages_of(language, batch, T, device)
    hidden_BTD = model.hidden(torch.tensor(fed, device=device), langs=langs, lengths=torch.tensor(lengths))
    hidden_ND = hidden_BTD.flatten(0, 1)[torch.tensor(scored, device=device)]
    return chunked_logprobs(
        model.head,
        hidden_ND,
        torch.tensor(targets, device=device),
        vocab_size=len(model.transformer.embeddings.word.weight),
        **requested,
    )


def _languages_of(
    languages: Sequence[int | Sequence[int]], batch: Sequence[Window], T: int, device: torch.device
) -> Tensor:
    """Return the (B, T) language ids of the fed tokens; padding has the language of the token before it."""
    rows: list[list[int]] = []
    for w in batch:
        ids = languages[w.sequence]
        row = [ids] if isinstance(ids, int) else [*ids[w.start : w.end]]
        rows.append([*row, *[row[-1]] * (T - len(row))])
    return torch.tensor(rows, device=device)


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
