"""Cross-entropy after a linear layer, with only one chunk of the logits in memory at a time.

Shapes: N predicted tokens, D model width, V vocabulary size, C tokens of a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_SCORES_CPU = 1 << 22
_SCORES_GPU = 1 << 26
"""Number of scores in a chunk: on a CPU as many as fit its caches, on a GPU enough to keep it busy."""

_SMALL_SCORE = 40.0
"""Up to this magnitude of the scores, the sum of their exponentials and its reciprocal stay well within float32."""


def linear_cross_entropy(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor, targets_N: Tensor) -> Tensor:
    """Return the mean negative log-probability of ``targets_N`` under ``softmax(hidden_ND @ weight_VD.T + bias_V)``.

    Args:
        hidden_ND: (N, D) hidden states.
        weight_VD: (V, D) weight of the head.
        bias_V: (V,) bias of the head.
        targets_N: (N,) int64 ids of the tokens to predict.

    Returns:
        Nats, a scalar in float32 or wider, which can be differentiated once.
    """
    inputs = (hidden_ND, weight_VD, bias_V)
    needs_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    loss: Tensor = _LinearCrossEntropy.apply(*inputs, targets_N, needs_grad)  # type: ignore[no-untyped-call]
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    """Implementation of ``linear_cross_entropy``.

    The forward pass also computes all gradients, chunk by chunk, so no score is computed twice and only one chunk of
    scores exists at a time.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor, targets_N: Tensor, needs_grad: bool
    ) -> Tensor:
        """Return the mean loss, and keep its gradients for the backward pass."""
        kind = hidden_ND.device.type
        # Under autocast, products are in the lower-precision type, as in a linear layer; sums stay in float32.
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight_VD.dtype
        high = torch.promote_types(low, torch.float32)
        with torch.autocast(kind, enabled=False):
            weight, hidden, bias = weight_VD.detach().to(low), hidden_ND.detach().to(low), bias_V.detach().to(low)
            N, V = hidden.shape[0], weight.shape[0]
            rows = max(1, min(N, (_SCORES_CPU if kind == "cpu" else _SCORES_GPU) // V))
            grad_hidden = torch.empty_like(hidden) if needs_grad else None
            grad_weight = torch.zeros_like(weight, dtype=high) if needs_grad else None
            grad_bias = torch.zeros_like(bias, dtype=high) if needs_grad else None
            total = torch.zeros((), dtype=high, device=hidden.device)
            # On a CPU, one pass over the scores of a narrow model takes as long as a matrix product. Save the passes
            # that turn exponentials into probabilities and subtract the targets: divide the hidden states and the
            # products by the sums instead, and subtract the targets at the end. With a lower-precision type, compute
            # the probabilities.
            unnormalised = kind == "cpu" and low == high
            small = unnormalised and _largest_score(hidden, weight, bias) <= _SMALL_SCORE
            # All chunks share this memory for their scores.
            memory = torch.empty(V * rows, dtype=low, device=hidden.device)
            for begin in range(0, N, rows):
                chunk = slice(begin, begin + rows)
                targets_1C = targets_N[None, chunk]
                scores_VC = memory[: V * targets_1C.shape[1]].view(V, -1)
                # The shape is (V, C), not (C, V): in a narrow model, the products are then up to twice as fast.
                torch.addmm(bias[:, None], weight, hidden[chunk].t(), out=scores_VC)
                scores_VC = scores_VC.to(high)
                if not small:
                    scores_VC -= scores_VC.amax(0)
                # Do not use log_softmax: its float32 sum over a large vocabulary is inexact (see
                # xlm.model.head.target_logprobs).
                total -= scores_VC.gather(0, targets_1C).sum()
                sums_1C = scores_VC.exp_().sum(0, keepdim=True)
                total += sums_1C.log().sum()
                if grad_hidden is None or grad_weight is None or grad_bias is None:
                    continue
                if unnormalised:
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
            if unnormalised and grad_hidden is not None and grad_weight is not None and grad_bias is not None:
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
        """Return the gradients from the forward pass, multiplied by the gradient of the loss."""
        # The gradients are scaled in place, then released, so that a second backward pass cannot scale them again.
        gradients, ctx.gradients = ctx.gradients, None
        assert gradients is not None, "the loss can be differentiated only once"
        scale = grad_loss / ctx.count
        hidden, weight, bias = (
            gradient.mul_(scale).to(kind) if gradient.dtype == kind else gradient.to(kind).mul_(scale)
            for gradient, kind in zip(gradients, ctx.types, strict=True)
        )
        return hidden, weight, bias, None, None


def _largest_score(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor) -> float:
    """Return an upper bound on the scores' magnitude, by the Cauchy-Schwarz inequality; NaN if a score may be NaN."""
    longest = hidden_ND.norm(dim=1).max() * weight_VD.norm(dim=1).max()
    return float(longest + bias_V.abs().max())
