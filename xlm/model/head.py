"""Hidden states to scores of the next word.

Shapes: B batch, T positions, N positions of any rows, D model width, V vocabulary; R positions and S words of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xlm.errors import InputError
from xlm.model.attention import at_least_float32
from xlm.model.config import XLMConfig

IGNORED_LABEL = -100
"""Label of a position that does not count in the loss; torch's and ``transformers``' convention."""


def target_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of one word a position.

    Args:
        logits: (…, V) scores, or log-probabilities, which are scores whose exponentials sum to one.
        targets: (…) int64, ids from 0 to V - 1.

    Returns:
        (…) nats, in float32 or wider.
    """
    # Not log_softmax, nor cross_entropy, which is built on it: over 64,699 words its float32 sum is off by up to 6e-5
    # nats on the CPU (torch 2.13), 20 times what the rest of the model adds; logsumexp is not.
    logits = at_least_float32(logits)
    return logits.gather(-1, targets[..., None])[..., 0] - logits.logsumexp(-1)


_WIDE_BLOCK_ELEMENTS = 6_000_000
"""Logits of a block that is as wide as the vocabulary: 24 MB in float32. With some tens of rows, reading the weights
once a block costs little beside the multiplying."""

_NARROW_BLOCK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Logits of a block of some words: on a CPU 4 MB, which stay in its cache from the product to their sum."""

_PIECE_BLOCK_ELEMENTS = 1 << 22
"""Logits of a block of as many words as packed weights come in: 16 MB, enough rows for each time weights are read."""

_NARROW_BLOCK_ROWS = 1024
"""Positions of such a block: the more, the less often each weight is read; on a CPU no more are scored at a time."""


class LogitBlock(NamedTuple):
    """Scores of some positions for some words.

    Attributes:
        rows: Which positions.
        first: Id of the first word.
        logits: (R, S), of the words ``first`` to ``first + S - 1``; float32 or wider. It may be overwritten, and is
            with the next block.
    """

    rows: slice
    first: int
    logits: Tensor


class LinearHead(nn.Module):
    """One score a word: ``hidden @ weight.T + bias``, with the word embeddings for weight when they are shared.

    Source: the original's ``PredLayer``.
    """

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(config.vocab_size))
        self.weight = None if config.tied else nn.Parameter(torch.empty(config.vocab_size, config.emb_dim))

    def forward(self, hidden: Tensor, word_embeddings_VD: Tensor) -> Tensor:
        """Return unnormalised scores, (…, V), of hidden states (…, D)."""
        return F.linear(hidden, word_embeddings_VD if self.weight is None else self.weight, self.bias)

    def logit_blocks(
        self, hidden_ND: Tensor, word_embeddings_VD: Tensor, *, elements: int | None = None
    ) -> Iterator[LogitBlock]:
        """Yields the logits in blocks: all words for the first positions, then for the next ones.

        Those of half precision are summed and kept in float32: rounded, many words would share one score, and one rank.

        Args:
            hidden_ND: (N, D) hidden states.
            word_embeddings_VD: (V, D), the model's.
            elements: Most logits of a block; ``None`` for what is fastest.
        """
        weight_VD = word_embeddings_VD if self.weight is None else self.weight
        N, V = len(hidden_ND), len(weight_VD)
        elements = elements or _NARROW_BLOCK_ELEMENTS.get(hidden_ND.device.type, _WIDE_BLOCK_ELEMENTS)
        R = min(N, _NARROW_BLOCK_ROWS, elements)
        S = min(V, _tiled(elements // max(R, 1)))
        wide = torch.promote_types(hidden_ND.dtype, torch.float32)
        memory = hidden_ND.new_empty(R * S, dtype=wide)
        for start in range(0, N, R or 1):
            rows = slice(start, min(start + R, N))
            hidden_RD = hidden_ND[rows]
            for first in range(0, V, S):
                words = slice(first, min(first + S, V))
                shape = (len(hidden_RD), words.stop - first)
                logits_RS = memory[: shape[0] * shape[1]].view(shape)
                _write_logits(hidden_RD, weight_VD[words], self.bias[words], logits_RS)
                yield LogitBlock(rows, first, logits_RS)


def _tiled(count: int) -> int:
    """At most ``count``, and where that is possible what the processors' kernels divide into tiles without a rest."""
    return max(1, count - count % 16 or count)


def _write_logits(hidden_RD: Tensor, weight_SD: Tensor, bias_S: Tensor, out_RS: Tensor) -> None:
    """Writes ``hidden @ weight.T + bias`` to ``out_RS``, which is wider where they are of half precision."""
    if hidden_RD.dtype == out_RS.dtype:
        torch.addmm(bias_S, hidden_RD, weight_SD.T, out=out_RS)
    elif hidden_RD.device.type == "cpu":
        torch.addmm(bias_S.float(), hidden_RD.float(), weight_SD.float().T, out=out_RS)
    elif hasattr(torch.ops.aten.mm, "dtype_out"):  # from torch 2.8
        torch.ops.aten.mm.dtype_out(hidden_RD, weight_SD.T, out_RS.dtype, out=out_RS)
        out_RS += bias_S
    else:
        out_RS.copy_(torch.addmm(bias_S, hidden_RD, weight_SD.T))


def row_blocks(count: int, width: int, elements: int | None, *, whole: bool = True) -> Iterator[slice]:
    """Divides positions for a head that computes a fixed number of scores at a time.

    Args:
        count: Positions.
        width: Scores of one position.
        elements: Most scores of a block; ``None`` for what is fastest.
        whole: Whether these are all words, or as many as packed weights come in.
    """
    elements = elements or (_WIDE_BLOCK_ELEMENTS if whole else _PIECE_BLOCK_ELEMENTS)
    rows = min(count, _tiled(elements // width))
    for start in range(0, count, rows or 1):
        yield slice(start, min(start + rows, count))


class AdaptiveHead(nn.Module):
    """Adaptive softmax: frequent words in one head, the others in narrower tail clusters. Never tied.

    Source: Grave et al. 2017 through ``torch.nn.AdaptiveLogSoftmaxWithLoss``, as in the original's ``PredLayer``.
    """

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        self.adaptive = nn.AdaptiveLogSoftmaxWithLoss(
            config.emb_dim, config.vocab_size, list(config.asm_cutoffs), config.asm_div_value, head_bias=True
        )

    def forward(self, hidden: Tensor, word_embeddings_VD: Tensor) -> Tensor:
        """Return log-probabilities, (…, V), of hidden states (…, D): this head has no unnormalised scores."""
        logits: Tensor = self.adaptive.log_prob(hidden.reshape(-1, hidden.shape[-1]))
        return logits.view(*hidden.shape[:-1], -1)


def apply_head(head: nn.Module, hidden: Tensor, word_embeddings_VD: Tensor) -> Tensor:
    """Return the scores of hidden states (…, D) by any head.

    Args:
        head: One of this file's, which also takes the word embeddings, or any other module, which takes hidden states.
        hidden: (…, D).
        word_embeddings_VD: (V, D), the model's.
    """
    given = (hidden, word_embeddings_VD) if isinstance(head, LinearHead | AdaptiveHead) else (hidden,)
    scores: Tensor = head(*given)
    return scores


def logit_blocks(
    head: nn.Module, hidden_ND: Tensor, word_embeddings_VD: Tensor, *, elements: int | None = None
) -> Iterator[LogitBlock]:
    """Yield the logits of any head in blocks, those of most heads for all words and some positions at a time.

    Raises:
        InputError: The head does not give one score a word.
    """
    if _has_own_blocks(head):
        yield from head.logit_blocks(hidden_ND, word_embeddings_VD, elements=elements)
        return
    V = len(word_embeddings_VD)
    for rows in row_blocks(len(hidden_ND), V, elements):
        logits_RV = apply_head(head, hidden_ND[rows], word_embeddings_VD)
        check_word_scores(logits_RV, V)
        logits_RV = at_least_float32(logits_RV)
        # A block may be overwritten, and what another's head returns may be its input, or a part of its own.
        yield LogitBlock(rows, 0, logits_RV if isinstance(head, AdaptiveHead) else logits_RV.clone())


def _has_own_blocks(head: nn.Module) -> TypeGuard[LinearHead]:
    """Whether a head makes blocks that are what a call of it gives: no hook or other ``forward`` changes that."""
    if not isinstance(head, LinearHead) or head._forward_hooks or head._forward_pre_hooks or "forward" in vars(head):
        return False
    owners = [next(c for c in type(head).__mro__ if name in vars(c)) for name in ("forward", "logit_blocks")]
    return owners[0] is owners[1]


def check_word_scores(scores: object, vocab_size: int) -> None:
    """Raise ``InputError`` unless a head gave one score for each word of the vocabulary."""
    width = scores.shape[-1] if isinstance(scores, Tensor) and scores.dim() else type(scores).__name__
    if width != vocab_size:
        raise InputError(
            "the model's head does not score the words of its vocabulary",
            where="model.head",
            found=f"{width} scores a position" if isinstance(width, int) else width,
            expected=f"{vocab_size}, one a word",
            remedy="forward gives what such a head returns; scoring and generation need scores of words",
        )
