"""Scores of the next token, changed before one is chosen; definitions and order as in ``transformers``.

Shapes: B rows, V vocabulary, T prompt positions, K best tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from xlm.model.attention import at_least_float32
from xlm.model.decoding.options import DecodingOptions

NEVER = float("-inf")

# How many of the best tokens top-p looks at before it sorts them all: on most steps the first hold enough of the
# probability, and finding them takes a thirtieth of the time.
_HEADS = (256, 2048)


class Constraints:
    """What holds for every way of decoding: repetition penalty, least length, suppressed tokens.

    Args:
        options: Checked.
        prompt_BT: (B, T) int64, with ``valid_BT`` true at real positions, or ``None`` when all are.
        vocab_size: V.
    """

    def __init__(
        self, options: DecodingOptions, prompt_BT: Tensor, valid_BT: Tensor | None, *, vocab_size: int
    ) -> None:
        device = prompt_BT.device
        self._penalty = options.repetition_penalty
        self._min_new_tokens = options.min_new_tokens
        self._suppressed = torch.tensor(options.suppressed_ids, dtype=torch.int64, device=device)
        self._suppressed_early = torch.tensor(
            (*options.suppressed_ids, *options.eos_ids), dtype=torch.int64, device=device
        )
        self._seen_BV: Tensor | None = None
        if self._penalty != 1:
            if valid_BT is not None:  # padding counts as the row's first token, which is seen anyway
                prompt_BT = torch.where(valid_BT, prompt_BT, prompt_BT[:, :1])
            self._seen_BV = torch.zeros(len(prompt_BT), vocab_size, dtype=torch.bool, device=device)
            self._seen_BV.scatter_(1, prompt_BT.long(), True)

    @property
    def rescales(self) -> bool:
        """Whether the scores of allowed tokens change too."""
        return self._seen_BV is not None

    def apply(self, scores_BV: Tensor, produced: int) -> Tensor:
        """Scores with what is not allowed at minus infinity; may be written into the tensor that is given.

        Args:
            scores_BV: Logits or log-probabilities.
            produced: Tokens that each row has got so far.
        """
        if self._seen_BV is not None:
            penalised_BV = torch.where(scores_BV < 0, scores_BV * self._penalty, scores_BV / self._penalty)
            scores_BV = torch.where(self._seen_BV, penalised_BV, scores_BV)
        suppressed = self._suppressed_early if produced < self._min_new_tokens else self._suppressed
        return scores_BV.index_fill_(1, suppressed, NEVER)

    def reorder(self, rows_R: Tensor) -> None:
        """Row i goes on from where row ``rows_R[i]`` is."""
        if self._seen_BV is not None:
            self._seen_BV = self._seen_BV[rows_R]

    def add(self, tokens_B: Tensor) -> None:
        """Takes in the token that each row got."""
        if self._seen_BV is not None:
            self._seen_BV.scatter_(1, tokens_B[:, None], True)


def sampling_scores(scores_BV: Tensor, options: DecodingOptions) -> Tensor:
    """Scores whose softmax is the distribution to draw from: temperature, top-k, top-p, min-p."""
    scores_BV = at_least_float32(scores_BV)
    if options.temperature != 1:
        scores_BV = scores_BV / options.temperature
    if options.top_k:
        scores_BV = _keep(scores_BV, top_k_threshold(scores_BV, options.top_k))
    if options.top_p is not None and options.top_p < 1:
        scores_BV = _keep(scores_BV, top_p_threshold(scores_BV, options.top_p))
    if options.min_p:
        scores_BV = _keep(scores_BV, min_p_threshold(scores_BV, options.min_p))
    return scores_BV


def _keep(scores_BV: Tensor, threshold_B1: Tensor) -> Tensor:
    return scores_BV.masked_fill(scores_BV < threshold_B1, NEVER)


def top_k_threshold(scores_BV: Tensor, k: int) -> Tensor:
    """(B, 1), the k-th best score."""
    return scores_BV.topk(min(k, scores_BV.shape[-1])).values[:, -1:]


def top_p_threshold(scores_BV: Tensor, p: float) -> Tensor:
    """(B, 1), the score of the last token of the nucleus: before it the probabilities sum up to less than ``p``."""
    V = scores_BV.shape[-1]
    normaliser_B1 = scores_BV.logsumexp(-1, keepdim=True)
    for K in (*(head for head in _HEADS if head < V), V):
        best_BK = scores_BV.topk(K).values
        probability_BK = (best_BK - normaliser_B1).double().exp()
        kept_BK = probability_BK.cumsum(-1) - probability_BK < p
        kept_BK[:, 0] = True
        if K == V or not bool(kept_BK[:, -1].any()):
            break
    return best_BK.gather(1, kept_BK.sum(-1, keepdim=True) - 1)


def min_p_threshold(scores_BV: Tensor, p: float) -> Tensor:
    """(B, 1), the score of a token ``p`` times as probable as the best."""
    return scores_BV.amax(-1, keepdim=True) + math.log(p)


def draw(scores_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """One token a row, from the softmax of its scores.

    By inverting the distribution function: a row's draw depends on its own scores and its own number alone.

    Args:
        scores_BV: Minus infinity at what must not be drawn.
        uniform_B: (B,) float64 from 0 to below 1.
    """
    # In float64, so that a token's interval is as wide as its probability also at the far end of the sum.
    upto_BV = scores_BV.softmax(-1).cumsum(-1, dtype=torch.float64)
    total_B1 = upto_BV[:, -1:]
    # Below the total: above all that rounding may give there stands no token.
    place_B1 = torch.minimum(uniform_B[:, None] * total_B1, torch.nextafter(total_B1, torch.zeros_like(total_B1)))
    return torch.searchsorted(upto_BV, place_B1, right=True)[:, 0]
