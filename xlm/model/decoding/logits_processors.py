"""Processors of the next token's scores, such as top-k; definitions and order as in ``transformers``.

A processor maps scores (B, V) and the number of new tokens in each row to scores. It may overwrite its input. To add a
processor, add a class and a line in ``constraints``, or a step in ``Warper`` if it is for sampling only.

Shapes: B rows, V vocabulary, T prompt positions, K best tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from xlm.errors import NonFiniteError
from xlm.model.decoding.options import DecodingOptions

NEVER = float("-inf")
"""Score of a token that cannot be chosen."""

# Top-p first sorts only this many of the best tokens, and sorts all tokens only if these do not reach ``top_p``. The
# best 256 usually reach it, and finding them takes a thirtieth of the time of sorting all.
_TOP_P_COUNTS = (256, 2048)


class LogitsProcessor:
    """Base class of the processors. A processor with a state also uses ``add`` and ``reorder`` to follow the rows."""

    rescales: bool = False
    """Whether the processor also changes the scores of tokens that remain possible."""

    def __call__(self, scores_BV: Tensor, produced: int) -> Tensor:
        """Return the changed scores.

        Args:
            scores_BV: (B, V) logits or log-probabilities.
            produced: Number of new tokens in each row so far.
        """
        raise NotImplementedError

    def add(self, tokens_B: Tensor) -> None:
        """Record the (B,) new tokens of the rows."""

    def reorder(self, rows_R: Tensor) -> None:
        """Continue row i from the state of row ``rows_R[i]``."""


class LogitsProcessors(LogitsProcessor):
    """Several processors, applied in order.

    Args:
        processors: The processors, in the order in which they are applied.
    """

    def __init__(self, processors: Sequence[LogitsProcessor]) -> None:
        self._processors = processors
        self.rescales = any(processor.rescales for processor in processors)

    def __call__(self, scores_BV: Tensor, produced: int) -> Tensor:
        """Return the scores changed by all processors."""
        for processor in self._processors:
            scores_BV = processor(scores_BV, produced)
        return scores_BV

    def add(self, tokens_B: Tensor) -> None:
        """Record the (B,) new tokens of the rows."""
        for processor in self._processors:
            processor.add(tokens_B)

    def reorder(self, rows_R: Tensor) -> None:
        """Continue row i from the state of row ``rows_R[i]``."""
        for processor in self._processors:
            processor.reorder(rows_R)


def constraints(
    options: DecodingOptions, prompt_BT: Tensor, valid_BT: Tensor | None, *, vocab_size: int
) -> LogitsProcessors:
    """Return the processors that apply to greedy decoding, sampling and beam search.

    Args:
        options: Checked options.
        prompt_BT: (B, T) int64 ids of the prompts.
        valid_BT: (B, T) boolean, true at real positions; ``None`` if there is no padding.
        vocab_size: V.
    """
    device = prompt_BT.device
    processors: list[LogitsProcessor] = []
    if options.repetition_penalty != 1:
        processors.append(RepetitionPenalty(options.repetition_penalty, prompt_BT, valid_BT, vocab_size=vocab_size))
    processors.append(Suppress(options.suppressed_ids, device=device))
    if options.min_new_tokens:
        processors.append(Suppress(options.eos_ids, device=device, until=options.min_new_tokens))
    return LogitsProcessors(processors)


def warpers(options: DecodingOptions) -> LogitsProcessor:
    """Return the processor that changes the distribution for sampling."""
    return Warper(options)


class RepetitionPenalty(LogitsProcessor):
    """Makes tokens that are already in the row or its prompt less likely.

    Args:
        penalty: Divides positive scores and multiplies negative ones.
        prompt_BT: (B, T) int64 ids of the prompts.
        valid_BT: (B, T) boolean, true at real positions; ``None`` if there is no padding.
        vocab_size: V.
    """

    rescales = True

    def __init__(self, penalty: float, prompt_BT: Tensor, valid_BT: Tensor | None, *, vocab_size: int) -> None:
        self._penalty = penalty
        if valid_BT is not None:  # replace padding by the row's first token, which is in the row anyway
            prompt_BT = torch.where(valid_BT, prompt_BT, prompt_BT[:, :1])
        self._seen_BV = torch.zeros(len(prompt_BT), vocab_size, dtype=torch.bool, device=prompt_BT.device)
        self._seen_BV.scatter_(1, prompt_BT.long(), True)

    def __call__(self, scores_BV: Tensor, produced: int) -> Tensor:
        """Return the scores, with the penalty applied to tokens that are already in the row or its prompt."""
        penalised_BV = torch.where(scores_BV < 0, scores_BV * self._penalty, scores_BV / self._penalty)
        return torch.where(self._seen_BV, penalised_BV, scores_BV)

    def add(self, tokens_B: Tensor) -> None:
        """Add the (B,) new tokens to their rows."""
        self._seen_BV.scatter_(1, tokens_B[:, None], True)

    def reorder(self, rows_R: Tensor) -> None:
        """Continue row i from the state of row ``rows_R[i]``."""
        self._seen_BV = self._seen_BV[rows_R]


class Suppress(LogitsProcessor):
    """Makes tokens impossible.

    Args:
        ids: Ids of the tokens.
        device: Device of the scores.
        until: Number of new tokens after which the tokens are possible again; ``None`` means never.
    """

    def __init__(self, ids: Sequence[int], *, device: torch.device, until: int | None = None) -> None:
        self._ids = torch.tensor(ids, dtype=torch.int64, device=device)
        self._until = until

    def __call__(self, scores_BV: Tensor, produced: int) -> Tensor:
        """Set the scores of the tokens to minus infinity, in place."""
        if self._until is not None and produced >= self._until:
            return scores_BV
        return scores_BV.index_fill_(1, self._ids, NEVER)


class Warper(LogitsProcessor):
    """Changes the distribution for sampling by temperature, top-k, top-p and min-p, in this order.

    Args:
        options: Checked options.
    """

    def __init__(self, options: DecodingOptions) -> None:
        self._options = options

    def __call__(self, scores_BV: Tensor, produced: int) -> Tensor:
        """Return the scores, with minus infinity at tokens that sampling must not choose."""
        options = self._options
        if options.temperature != 1:
            scores_BV = scores_BV / options.temperature
        if options.top_k:
            scores_BV = _keep(scores_BV, scores_BV.topk(min(options.top_k, scores_BV.shape[-1])).values[:, -1:])
        if options.top_p is not None and options.top_p < 1:
            scores_BV = _keep(scores_BV, _top_p_threshold(scores_BV, options.top_p))
        if options.min_p:
            scores_BV = _keep(scores_BV, scores_BV.amax(-1, keepdim=True) + math.log(options.min_p))
        return scores_BV


def _top_p_threshold(scores_BV: Tensor, p: float) -> Tensor:
    """Return (B, 1): the lowest score in the smallest set of best tokens whose probabilities sum to ``p`` or more."""
    V = scores_BV.shape[-1]
    normaliser_B1 = scores_BV.logsumexp(-1, keepdim=True)
    for K in (*(count for count in _TOP_P_COUNTS if count < V), V):
        best_BK = scores_BV.topk(K).values
        probability_BK = (best_BK - normaliser_B1).double().exp()
        kept_BK = probability_BK.cumsum(-1) - probability_BK < p
        kept_BK[:, 0] = True
        if K == V or not bool(kept_BK[:, -1].any()):
            break
    return best_BK.gather(1, kept_BK.sum(-1, keepdim=True) - 1)


def _keep(scores_BV: Tensor, threshold_B1: Tensor) -> Tensor:
    """Return the scores, with minus infinity below the threshold."""
    return scores_BV.masked_fill(scores_BV < threshold_B1, NEVER)


def check_finite(summary_B: Tensor) -> None:
    """Raise ``NonFiniteError`` if a row of scores contains NaN or infinity, or only minus infinity.

    Args:
        summary_B: (B,) largest score of each row, or its logsumexp.
    """
    finite_B = summary_B.isfinite()
    if not bool(finite_B.all()):
        raise NonFiniteError(
            "the model's scores of the next token are not finite",
            where="logits",
            found=f"NaN or infinity in {int((~finite_B).sum())} of {len(finite_B)} rows",
            expected="finite scores",
            remedy="look for NaN among the weights; if they are in half precision, load the model in float32",
        )
