"""The loss without the logits: a few rows' scores at a time, whose gradients are taken while they are there.

Shapes: N predicted tokens, D model width, V vocabulary, C rows of a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from xlm.model.head import AdaptiveHead
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.transformer import TransformerInputs

_SCORES_CPU = 1 << 22
_SCORES_GPU = 1 << 26
"""Scores that are held at a time: on a CPU what its caches hold, on a GPU what keeps it busy."""

_SMALL_SCORE = 40.0
"""Exponentials of scores that are no farther from zero than this, and their sums and reciprocals, fit float32 well."""


def linear_cross_entropy(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor, targets_N: Tensor) -> Tensor:
    """Mean negative log-probability of ``targets_N`` under ``softmax(hidden_ND @ weight_VD.T + bias_V)``.

    Args:
        hidden_ND: (N, D) hidden states.
        weight_VD: (V, D) weight of the head.
        bias_V: (V,) bias of the head.
        targets_N: (N,) int64 ids of the words to predict.

    Returns:
        Nats, a scalar in float32 or wider. It can be differentiated once.
    """
    inputs = (hidden_ND, weight_VD, bias_V)
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    loss: Tensor = _LinearCrossEntropy.apply(*inputs, targets_N, wanted)  # type: ignore[no-untyped-call]
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    """``linear_cross_entropy`` with gradients, when they are wanted.

    Both gradients of the last linear map are finished in the forward pass, one chunk of rows after the other: no score
    is computed twice, and never more than one chunk of them exists.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor, targets_N: Tensor, wanted: bool
    ) -> Tensor:
        """The mean loss, with its gradients kept for the backward pass."""
        kind = hidden_ND.device.type
        # Under autocast the products are in the lower type, as a linear layer's would be; sums stay in float32.
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight_VD.dtype
        high = torch.promote_types(low, torch.float32)
        with torch.autocast(kind, enabled=False):
            weight, hidden, bias = weight_VD.detach().to(low), hidden_ND.detach().to(low), bias_V.detach().to(low)
            N, V = hidden.shape[0], weight.shape[0]
            rows = max(1, min(N, (_SCORES_CPU if kind == "cpu" else _SCORES_GPU) // V))
            grad_hidden = torch.empty_like(hidden) if wanted else None
            grad_weight = torch.zeros_like(weight, dtype=high) if wanted else None
            grad_bias = torch.zeros_like(bias, dtype=high) if wanted else None
            total = torch.zeros((), dtype=high, device=hidden.device)
            # With a narrow model, to pass over the scores takes as long as their products do. Where they need no lower
            # type, the probabilities are never written: rows of the other factors are scaled, and the words that
            # were to be predicted are taken off at the end.
            sparing = kind == "cpu" and low == high
            small = sparing and _largest_score(hidden, weight, bias) <= _SMALL_SCORE
            # One piece of memory for the scores of all chunks in turn.
            memory = torch.empty(V * rows, dtype=low, device=hidden.device)
            for begin in range(0, N, rows):
                chunk = slice(begin, begin + rows)
                targets_1C = targets_N[None, chunk]
                scores_VC = memory[: V * targets_1C.shape[1]].view(V, -1)
                # Words down, tokens across: with so narrow a model the products are up to twice as fast that way.
                torch.addmm(bias[:, None], weight, hidden[chunk].t(), out=scores_VC)
                scores_VC = scores_VC.to(high)
                if not small:
                    scores_VC -= scores_VC.amax(0)
                # Not log_softmax: in float32 over many words its sum is off, see xlm.model.head.target_logprobs.
                total -= scores_VC.gather(0, targets_1C).sum()
                sums_1C = scores_VC.exp_().sum(0, keepdim=True)
                total += sums_1C.log().sum()
                if grad_hidden is None or grad_weight is None or grad_bias is None:
                    continue
                if sparing:
                    shares_C = sums_1C[0].reciprocal()
                    torch.mm(scores_VC.t(), weight, out=grad_hidden[chunk]).mul_(shares_C[:, None])
                    grad_weight.addmm_(scores_VC, hidden[chunk] * shares_C[:, None])
                    grad_bias.addmv_(scores_VC, shares_C)
                else:
                    scores_VC.scatter_add_(0, targets_1C, -sums_1C)
                    scores_VC /= sums_1C
                    grad_bias += scores_VC.sum(1)
                    scores_low = scores_VC.to(low)
                    torch.mm(scores_low.t(), weight, out=grad_hidden[chunk])
                    if low == high:
                        grad_weight.addmm_(scores_low, hidden[chunk])
                    else:
                        grad_weight += scores_low @ hidden[chunk]
            if sparing and grad_hidden is not None and grad_weight is not None and grad_bias is not None:
                grad_hidden -= weight[targets_N]
                grad_weight.index_add_(0, targets_N, hidden, alpha=-1)
                grad_bias -= targets_N.bincount(minlength=V)
        ctx.gradients = (grad_hidden, grad_weight, grad_bias)
        ctx.types = (hidden_ND.dtype, weight_VD.dtype, bias_V.dtype)
        ctx.count = N
        return total / N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """The gradients from the forward pass, times that of the loss."""
        # Scaled in place and given away: a second backward pass finds nothing to scale twice.
        gradients, ctx.gradients = ctx.gradients, None
        assert gradients is not None, "the loss was differentiated before"
        scale = grad_loss / ctx.count
        hidden, weight, bias = (
            gradient.mul_(scale).to(kind) if gradient.dtype == kind else gradient.to(kind).mul_(scale)
            for gradient, kind in zip(gradients, ctx.types, strict=True)
        )
        return hidden, weight, bias, None, None


def _largest_score(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor) -> float:
    """No score is farther from zero than this (Cauchy and Schwarz); NaN where one may be."""
    longest = hidden_ND.norm(dim=1).max() * weight_VD.norm(dim=1).max()
    return float(longest + bias_V.abs().max())


def stream_loss(model: XLMWithLMHeadModel, input_ids: Tensor, language: int) -> Tensor:
    """Mean negative log-probability, in nats, of tokens 2 … T of each row.

    Args:
        model: Any causal model, with either head.
        input_ids: (B, T) int64 on the model's device, ids from 0 to V - 1, without padding. They are not checked
            again: on a GPU that would make every step wait for it.
        language: Id of all tokens' language.

    Returns:
        A scalar in float32 or wider.
    """
    states = model.transformer(
        TransformerInputs(
            input_ids=input_ids,
            position_ids=torch.arange(input_ids.shape[1], device=input_ids.device)[None],
            langs=torch.full((1, 1), language, device=input_ids.device),
        )
    )
    # The last position predicts nothing; its hidden state is dropped before the scores.
    hidden_ND, targets_N = states.hidden[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten()
    if isinstance(model.head, AdaptiveHead):
        with torch.autocast(hidden_ND.device.type, enabled=False):
            loss: Tensor = -model.head.adaptive(hidden_ND.float(), targets_N).output.mean()
        return loss
    return linear_cross_entropy(hidden_ND, model.head.projection, model.head.bias, targets_N)
