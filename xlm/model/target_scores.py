"""Hidden states to log-probabilities, ranks and entropies of given next words, and to the most likely ones.

Shapes: N positions of any rows, D model width, V vocabulary, K most likely words; R positions and S words of a block of
logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xlm.model.head import logit_blocks

_BELOW_ALL = -1e30
"""Lower than any logit, and finite: differences of it are numbers."""


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
    head: nn.Module,
    hidden_ND: Tensor,
    word_embeddings_VD: Tensor,
    targets_N: Tensor,
    *,
    ranks: bool = False,
    entropies: bool = False,
    top: int = 0,
    block_elements: int | None = None,
) -> TargetScores:
    """Log-probabilities of given words, without ever holding the logits of more than some positions and words.

    Torch's fused ``linear_cross_entropy`` (from 2.13) is off by three times as much over 64,699 words, and gives
    neither ranks nor entropies. Without gradients only: the block of logits is used again.

    Args:
        head: The model's head, its own or another's that scores each word.
        hidden_ND: (N, D), the last layer's output at the positions before the targets; N may be 0.
        word_embeddings_VD: (V, D), the model's.
        targets_N: (N,) int64, ids from 0 to V - 1.
        ranks: Also give ranks; they take all products a second time.
        entropies: Also give entropies; they take a second block.
        top: Also give this many of the most likely words; all V when that is fewer.
        block_elements: How many logits are held at a time; ``None`` for what is fastest.
    """
    N, device = len(targets_N), hidden_ND.device
    wide = torch.promote_types(hidden_ND.dtype, torch.float32)
    target_N = torch.empty(N, dtype=wide, device=device)
    # Of the blocks of each row so far: their highest logit, and relative to it the sum of the exponentials, plain and
    # weighted with the logits. The sum is that of logsumexp, whose accuracy it has (see target_logprobs), but in place.
    highest_N = torch.full((N,), _BELOW_ALL, dtype=wide, device=device)
    sum_N = torch.zeros(N, dtype=wide, device=device)
    weighted_N = torch.zeros(N, dtype=wide, device=device) if entropies else None
    K = min(top, len(word_embeddings_VD))
    top_NK = torch.full((N, K), _BELOW_ALL, dtype=wide, device=device)
    top_ids_NK = torch.zeros(N, K, dtype=torch.int64, device=device)
    for rows, first, logits_RS in logit_blocks(head, hidden_ND, word_embeddings_VD, elements=block_elements):
        if K:
            best = logits_RS.topk(min(K, logits_RS.shape[1]))
            top_NK[rows], chosen_RK = torch.cat([top_NK[rows], best.values], 1).topk(K)
            top_ids_NK[rows] = torch.cat([top_ids_NK[rows], best.indices + first], 1).gather(1, chosen_RK)
        here_R, of_target_R = _at_targets(logits_RS, targets_N[rows] - first)
        target_N[rows] = torch.where(here_R, of_target_R, target_N[rows])
        highest_R = torch.maximum(highest_N[rows], logits_RS.amax(1))
        step_R = highest_N[rows] - highest_R
        highest_N[rows] = highest_R
        logits_RS.sub_(highest_R[:, None])
        if weighted_N is None:
            sum_N[rows] = sum_N[rows] * step_R.exp() + logits_RS.exp_().sum(1)
            continue
        weights_RS = logits_RS.exp()
        weighted_N[rows] = (weighted_N[rows] + step_R * sum_N[rows]) * step_R.exp()
        sum_N[rows] = sum_N[rows] * step_R.exp() + weights_RS.sum(1)
        weighted_N[rows] += weights_RS.mul_(logits_RS).sum(1)
    ranks_N = None
    if ranks:
        ranks_N = torch.ones(N, dtype=torch.int64, device=device)
        for rows, first, logits_RS in logit_blocks(head, hidden_ND, word_embeddings_VD, elements=block_elements):
            above_RS = logits_RS > target_N[rows, None]
            # A word is not above itself, even if its product were not the same the second time.
            here_R, itself_R = _at_targets(above_RS, targets_N[rows] - first)
            ranks_N[rows] += above_RS.sum(1) - (here_R & itself_R).long()
    return TargetScores(
        logprobs=(target_N - highest_N) - sum_N.log(),
        ranks=ranks_N,
        entropies=None if weighted_N is None else sum_N.log() - weighted_N / sum_N,
        top_ids=top_ids_NK if top else None,
        top_logprobs=(top_NK - highest_N[:, None]) - sum_N.log()[:, None] if top else None,
    )


def _at_targets(block_RS: Tensor, places_R: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each row's target is in a block, and the block's value at it; any value where it is not."""
    S = block_RS.shape[1]
    return (places_R >= 0) & (places_R < S), block_RS.gather(1, places_R.clamp(0, S - 1)[:, None])[:, 0]
