"""Cross-entropy after a linear layer, with only one chunk of the logits in memory at a time.

Shapes: N predicted tokens, D model width, V vocabulary size, C tokens of a chunk, S words of a block.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from xlm._io.arguments import check_choice, check_share
from xlm.errors import InputError
from xlm.model.head import at_targets
from xlm.model.inputs import check_shape, check_tensor, check_whole
from xlm.model.linear import linear

_SCORES_CPU = 1 << 25
"""Number of scores in a chunk on a CPU, 128 MB. In larger chunks, the gradient of the weights is read and written less
often, and products have more rows."""

_SCORES_GPU = 1 << 26
"""Number of scores in a chunk on a GPU: enough to keep it busy."""

_BLOCK_CPU = 4096
"""Number of words whose scores are computed at once on a CPU. The result of each product then stays in its caches."""

_IGNORED = -100

_SMALL_SCORE = 40.0
"""Up to this magnitude of the scores, the sum of their exponentials and its reciprocal stay well within float32."""


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    smoothing: float = 0.0,
) -> Tensor:
    """Return the negative log-probability of targets under ``softmax(hidden @ weight.T + bias)``.

    Only one chunk of the scores is in memory at a time, and no score is computed twice. The values are not checked.

    Args:
        hidden: (N, D) hidden states.
        weight: (V, D) weight of the head.
        bias: (V,) bias of the head.
        targets: (N,) int64 ids of the tokens to predict. Rows whose target is -100 are ignored, even if they are NaN.
        reduction: ``"mean"`` or ``"sum"`` over the targets that are not ignored. The mean over no target is NaN.
        smoothing: Share of the target distribution that is spread evenly over all words, from 0 to 1.

    Returns:
        Nats, a scalar in float32 or wider, which can be differentiated once.

    Raises:
        InputError: An argument has a wrong type or shape.
    """
    _check_shapes(hidden, weight, bias, targets)
    check_choice("reduction", ("mean", "sum"), reduction=reduction)
    check_share(smoothing=smoothing)
    counted_N = targets != _IGNORED
    targets_N = targets.masked_fill(~counted_N, 0)
    # An ignored row that is not finite must reach neither the sums nor the gradients, where 0 * NaN is NaN.
    hidden = hidden.masked_fill(~counted_N[:, None], 0)
    inputs = (hidden, weight, bias, targets_N, counted_N, torch.is_grad_enabled())
    loss: Tensor = _LinearCrossEntropy.apply(*inputs)  # type: ignore[no-untyped-call]
    if smoothing:
        # The smoothed loss is the plain one plus this share of the target's score minus the mean score. The mean score
        # is that of the mean word, so it needs no other score.
        high = loss.dtype
        mean_word_D, mean_bias = weight.mean(0, dtype=high), bias.mean(dtype=high)
        target_ND, target_bias_N = F.embedding(targets_N, weight).to(high), bias[targets_N].to(high)
        gains_N = (hidden.to(high) * (target_ND - mean_word_D)).sum(-1) + target_bias_N - mean_bias
        loss = loss + smoothing * torch.where(counted_N, gains_N, 0).sum()
    return loss if reduction == "sum" else loss / counted_N.sum()


def _check_shapes(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> None:
    fault = "is not a matrix of numbers"
    for name, matrix in (("hidden", hidden), ("weight", weight)):
        check_tensor(name, matrix, fault, expected="a floating-point tensor with 2 dimensions")
        if matrix.dim() != 2 or not matrix.is_floating_point() or (not matrix.numel() and name == "weight"):
            found = f"{matrix.dtype} of shape {tuple(matrix.shape)}"
            raise InputError(f"{name} {fault}", where=name, found=found, expected="a floating-point matrix")
    check_shape("weight", weight, (weight.shape[0], hidden.shape[1]))
    check_shape("bias", bias, (weight.shape[0],))
    check_shape("targets", targets, (hidden.shape[0],))
    check_whole("targets", targets)
    if not bias.is_floating_point():
        raise InputError("bias is not a vector of numbers", where="bias", found=bias.dtype, expected="floating point")


class _LinearCrossEntropy(torch.autograd.Function):
    """Implementation of ``linear_cross_entropy``.

    The forward pass also computes all gradients, chunk by chunk, so no score is computed twice and only one chunk of
    scores exists at a time.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor,
        targets_N: Tensor,
        counted_N: Tensor,
        grad_enabled: bool,
    ) -> Tensor:
        """Return the sum of the losses, and keep the gradients that are needed for the backward pass."""
        kind = hidden_ND.device.type
        # Under autocast, products are in the lower-precision type, as in a linear layer; sums stay in float32.
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight_VD.dtype
        high = torch.promote_types(low, torch.float32)
        with torch.autocast(kind, enabled=False):
            weight, hidden, bias = weight_VD.detach().to(low), hidden_ND.detach().to(low), bias_V.detach().to(low)
            N, V = hidden.shape[0], weight.shape[0]
            shares_N = counted_N.to(high)
            on_cpu = kind == "cpu"
            rows = max(1, min(N, (_SCORES_CPU if on_cpu else _SCORES_GPU) // V))
            width = _BLOCK_CPU if on_cpu else V
            needs_hidden, needs_weight, needs_bias = (grad_enabled and needs for needs in ctx.needs_input_grad[:3])
            grad_hidden = torch.zeros_like(hidden, dtype=high) if needs_hidden else None
            # The transposed gradient of the weight, and the gradient of the bias as its last row. In this layout, no
            # operand of a product is copied.
            D = hidden.shape[1] if needs_weight else 0
            grad_head = weight.new_zeros((D + 1, V), dtype=high) if needs_weight or needs_bias else None
            total = torch.zeros((), dtype=high, device=hidden.device)
            # On a CPU, one pass over the scores of a narrow model takes as long as a matrix product. Save the passes
            # that turn exponentials into probabilities and subtract the targets: divide the hidden states and the
            # products by the sums instead, and subtract the targets at the end. With a lower-precision type, compute
            # the probabilities.
            unnormalised = on_cpu and low == high
            small = unnormalised and N > 0 and _largest_score(hidden, weight, bias) <= _SMALL_SCORE
            for begin in range(0, N, rows):
                chunk = slice(begin, begin + rows)
                hidden_CD, targets_C, counted_C = hidden[chunk], targets_N[chunk], shares_N[chunk]
                blocks = [
                    (words, linear(hidden_CD, weight[words], bias[words]).to(high))
                    for words in (slice(first, first + width) for first in range(0, V, width))
                ]
                highest_C = counted_C.new_zeros(())
                if not small:
                    highest_C = torch.stack([scores_CS.amax(1) for _, scores_CS in blocks]).amax(0)
                # Do not use log_softmax: its float32 sum over a large vocabulary is inexact (see
                # xlm.model.head.target_logprobs).
                target_C, sums_C = torch.zeros_like(counted_C), torch.zeros_like(counted_C)
                for words, scores_CS in blocks:
                    if not small:
                        scores_CS -= highest_C[:, None]
                    inside_C, of_target_C = at_targets(scores_CS, targets_C - words.start)
                    target_C = torch.where(inside_C, of_target_C, target_C)
                    sums_C += scores_CS.exp_().sum(1)
                total += ((sums_C.log() - target_C) * counted_C).sum()
                if grad_hidden is None and grad_head is None:
                    continue
                shares_C = counted_C / sums_C
                if unnormalised:
                    hidden_CD = hidden_CD * shares_C[:, None]
                left = hidden_CD.t()[:D]
                left = torch.cat([left, shares_C[None]]) if unnormalised else left.contiguous()
                for words, scores_CS in blocks:
                    if not unnormalised:
                        inside_C, _ = at_targets(scores_CS, targets_C - words.start)
                        columns_C1 = (targets_C - words.start).clamp(0, scores_CS.shape[1] - 1)[:, None]
                        scores_CS.scatter_add_(1, columns_C1, torch.where(inside_C, -sums_C, 0)[:, None])
                        scores_CS *= shares_C[:, None]
                    scores_low = scores_CS.to(low)
                    if grad_hidden is not None:
                        _add_product(grad_hidden[chunk], scores_low, weight[words].t())
                    if grad_head is not None:
                        _add_product(grad_head[: len(left), words], left, scores_low.t())
                        if not unnormalised:
                            grad_head[-1, words] += scores_CS.sum(0)
                if unnormalised and grad_hidden is not None:
                    grad_hidden[chunk].mul_(shares_C[:, None])
            if unnormalised and grad_hidden is not None:
                grad_hidden -= weight[targets_N] * shares_N[:, None]
            grad_weight = grad_head[:D].t().contiguous() if grad_head is not None and needs_weight else None
            # Copied, because a view would keep all of `grad_head` in memory for as long as the gradient exists.
            grad_bias = grad_head[-1].clone() if grad_head is not None and needs_bias else None
            if unnormalised and grad_weight is not None:
                grad_weight.index_add_(0, targets_N, hidden * shares_N[:, None], alpha=-1)
            if unnormalised and grad_bias is not None:
                grad_bias.index_add_(0, targets_N, shares_N, alpha=-1)
        ctx.gradients = (grad_hidden, grad_weight, grad_bias)
        ctx.types = (hidden_ND.dtype, weight_VD.dtype, bias_V.dtype)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients from the forward pass, multiplied by the gradient of the loss."""
        # The gradients are scaled in place, then released, so that a second backward pass cannot scale them again.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise InputError(
                "a loss without logits is differentiated a second time",
                where="loss.backward",
                expected="one backward pass, which releases the gradients",
                remedy="compute the loss again, or from logits (return_logits=True)",
            )
        scaled = (
            None if gradient is None else gradient.to(kind).mul_(grad_loss)
            for gradient, kind in zip(gradients, ctx.types, strict=True)
        )
        return *scaled, None, None, None


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``left @ right.T`` to ``total`` in place."""
    if total.device.type == "cpu" or total.dtype != left.dtype:
        total += linear(left, right)
    else:
        total.addmm_(left, right.t())


def _largest_score(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor) -> float:
    """Return an upper bound on the scores' magnitude, by the Cauchy-Schwarz inequality; NaN if a score may be NaN."""
    longest = hidden_ND.norm(dim=1).max() * weight_VD.norm(dim=1).max()
    return float(longest + bias_V.abs().max())
