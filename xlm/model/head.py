"""Hidden states to scores of the next word.

Shapes: B batch, T positions, N positions of any rows, R positions of one block, D model width, V vocabulary,
K most likely words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


_BLOCK_ELEMENTS = 12_000_000
"""Logits that are held at a time: 48 MB in float32, twice that with entropies. From about 100 rows on, the product is
as fast as an unlimited one: reading the weights once a block then costs nothing beside the multiplying."""

_WIDENED_ROWS = 4096
"""Rows of half-precision weights that are held in float32 at a time on a CPU: 16 MB for a model of width 1,024."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetScores:
    """What a model says about given next words.

    Attributes:
        logprobs: (N,) nats, float32 or wider.
        ranks: (N,) int64, when asked for: 1 for the most likely word; words of equal score share the best rank.
        entropies: (N,) nats, when asked for: the entropy of the whole prediction, 0 to log V.
        top_ids: (N, K) int64, when asked for: the K most likely words, best first, those of equal score in any order.
        top_logprobs: (N, K) nats, theirs.
    """

    logprobs: Tensor
    ranks: Tensor | None = None
    entropies: Tensor | None = None
    top_ids: Tensor | None = None
    top_logprobs: Tensor | None = None


def score_targets(
    head: LinearHead | AdaptiveHead,
    hidden_ND: Tensor,
    word_embeddings_VD: Tensor,
    targets_N: Tensor,
    *,
    ranks: bool = False,
    entropies: bool = False,
    top: int = 0,
    block_elements: int = _BLOCK_ELEMENTS,
) -> TargetScores:
    """Log-probabilities of given words, without ever holding the logits of more than a few positions.

    Torch's fused ``linear_cross_entropy`` (from 2.13) takes as long, is off by three times as much over 64,699 words,
    and gives neither ranks nor entropies. Without gradients only: the block of logits is used again.

    Args:
        head: The model's head.
        hidden_ND: (N, D), the last layer's output at the positions before the targets; N may be 0.
        word_embeddings_VD: (V, D), the model's.
        targets_N: (N,) int64, ids from 0 to V - 1.
        ranks: Also give ranks.
        entropies: Also give entropies; they take a second block.
        top: Also give this many of the most likely words; all V when that is fewer.
        block_elements: How many logits are held at a time, at least V.
    """
    N, device = len(targets_N), hidden_ND.device
    wide = torch.promote_types(hidden_ND.dtype, torch.float32)
    logprobs_N = torch.empty(N, dtype=wide, device=device)
    ranks_N = torch.empty(N, dtype=torch.int64, device=device) if ranks else None
    entropies_N = torch.empty(N, dtype=wide, device=device) if entropies else None
    K = min(top, len(word_embeddings_VD))
    top_ids_NK = torch.empty(N, K, dtype=torch.int64, device=device) if top else None
    top_logprobs_NK = torch.empty(N, K, dtype=wide, device=device) if top else None
    rows = max(1, block_elements // len(word_embeddings_VD))
    rows = min(N, rows - rows % 16 or rows)  # what the processors' kernels divide into tiles without a rest
    for start, logits_RV in head.logit_blocks(hidden_ND, word_embeddings_VD, rows):
        block = slice(start, start + len(logits_RV))
        target_R1 = logits_RV.gather(1, targets_N[block, None])
        if ranks_N is not None:
            ranks_N[block] = (logits_RV > target_R1).sum(1) + 1
        # The sum as in logsumexp, whose accuracy it has (see target_logprobs), but in place.
        highest_R1 = logits_RV.amax(1, keepdim=True)
        logits_RV.sub_(highest_R1)
        best_RK = None if top_ids_NK is None else logits_RV.topk(K)
        if entropies_N is None:
            log_sum_R = logits_RV.exp_().sum(1).log()
        else:
            weights_RV = logits_RV.exp()
            sum_R = weights_RV.sum(1)
            log_sum_R = sum_R.log()
            entropies_N[block] = log_sum_R - weights_RV.mul_(logits_RV).sum(1) / sum_R
        logprobs_N[block] = (target_R1 - highest_R1)[:, 0] - log_sum_R
        if best_RK is not None and top_ids_NK is not None and top_logprobs_NK is not None:
            top_ids_NK[block] = best_RK.indices
            top_logprobs_NK[block] = best_RK.values - log_sum_R[:, None]
    return TargetScores(
        logprobs=logprobs_N,
        ranks=ranks_N,
        entropies=entropies_N,
        top_ids=top_ids_NK,
        top_logprobs=top_logprobs_NK,
    )


class LinearHead(nn.Module):
    """One score a word: ``hidden @ weight.T + bias``, with the word embeddings for weight when they are shared.

    Source: the original's ``PredLayer``.
    """

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(config.vocab_size))
        self.weight = None if config.tied else nn.Parameter(torch.empty(config.vocab_size, config.emb_dim))

    def logits(self, hidden: Tensor, word_embeddings_VD: Tensor) -> Tensor:
        """Unnormalised scores, (…, V), of hidden states (…, D)."""
        return F.linear(hidden, word_embeddings_VD if self.weight is None else self.weight, self.bias)

    def logit_blocks(self, hidden_ND: Tensor, word_embeddings_VD: Tensor, rows: int) -> Iterator[tuple[int, Tensor]]:
        """Yields the first position and the logits of each block of positions.

        The logits are (R, V), R at most ``rows``, in float32 or wider, and overwritten with the next block. Those of
        half precision are summed and kept in float32: rounded, many words would share one score, and one rank.
        """
        weight_VD = word_embeddings_VD if self.weight is None else self.weight
        wide = torch.promote_types(hidden_ND.dtype, torch.float32)
        logits_RV = hidden_ND.new_empty(rows, len(weight_VD), dtype=wide)
        for start in range(0, len(hidden_ND), rows or 1):
            block_RD = hidden_ND[start : start + rows]
            out_RV = logits_RV[: len(block_RD)]
            if block_RD.dtype == wide:
                torch.addmm(self.bias, block_RD, weight_VD.T, out=out_RV)
            else:
                _wide_logits(block_RD, weight_VD, self.bias, out_RV)
            yield start, out_RV

    def loss(self, logits_BTV: Tensor, hidden_BTD: Tensor, labels_BT: Tensor) -> Tensor:
        """Mean negative log-probability of the labels that count, in nats; a scalar in float32 or wider."""
        counted_BT = labels_BT != IGNORED_LABEL
        logprobs_BT = target_logprobs(logits_BTV, labels_BT.masked_fill(~counted_BT, 0))
        return -logprobs_BT[counted_BT].mean()


def _wide_logits(hidden_RD: Tensor, weight_VD: Tensor, bias_V: Tensor, out_RV: Tensor) -> None:
    """Writes the logits of half-precision hidden states and weights to ``out_RV``, which is float32."""
    if hidden_RD.device.type != "cpu":
        if hasattr(torch.ops.aten.mm, "dtype_out"):  # from torch 2.8
            torch.ops.aten.mm.dtype_out(hidden_RD, weight_VD.T, out_RV.dtype, out=out_RV)
            out_RV += bias_V
        else:
            out_RV.copy_(torch.addmm(bias_V, hidden_RD, weight_VD.T))
        return
    wide_RD = hidden_RD.float()
    for first in range(0, len(weight_VD), _WIDENED_ROWS):
        some = slice(first, first + _WIDENED_ROWS)
        torch.addmm(bias_V[some].float(), wide_RD, weight_VD[some].float().T, out=out_RV[:, some])


class AdaptiveHead(nn.Module):
    """Adaptive softmax: frequent words in one head, the others in narrower tail clusters. Never tied.

    Source: Grave et al. 2017 through ``torch.nn.AdaptiveLogSoftmaxWithLoss``, as in the original's ``PredLayer``.
    """

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        self.adaptive = nn.AdaptiveLogSoftmaxWithLoss(
            config.emb_dim, config.vocab_size, list(config.asm_cutoffs), config.asm_div_value, head_bias=True
        )

    def logits(self, hidden: Tensor, word_embeddings_VD: Tensor) -> Tensor:
        """Log-probabilities, (…, V), of hidden states (…, D): this head has no unnormalised scores."""
        logits: Tensor = self.adaptive.log_prob(hidden.reshape(-1, hidden.shape[-1]))
        return logits.view(*hidden.shape[:-1], -1)

    def logit_blocks(self, hidden_ND: Tensor, word_embeddings_VD: Tensor, rows: int) -> Iterator[tuple[int, Tensor]]:
        """Yields the first position and the log-probabilities of each block of positions, as a linear head does."""
        for start in range(0, len(hidden_ND), rows or 1):
            yield start, at_least_float32(self.logits(hidden_ND[start : start + rows], word_embeddings_VD))

    def loss(self, logits_BTV: Tensor, hidden_BTD: Tensor, labels_BT: Tensor) -> Tensor:
        """Mean negative log-probability of the labels that count, in nats; a scalar in float32 or wider."""
        counted_BT = labels_BT != IGNORED_LABEL
        output: Tensor = self.adaptive(hidden_BTD[counted_BT], labels_BT[counted_BT]).output
        return -at_least_float32(output).mean()
