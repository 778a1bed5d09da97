"""The loss of a language model: which labels count, and their negative log-probabilities.

``logits_loss`` takes the scores of all positions; ``chunked_loss`` never holds more than a chunk of them.

Shapes: B batch, T positions, N positions of all rows, D model width, V vocabulary, C positions of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, TypeGuard

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xlm.model.attention import at_least_float32
from xlm.model.head import IGNORED_LABEL, AdaptiveHead, LinearHead, has_hooks, row_blocks, target_logprobs
from xlm.model.inputs import is_transformed
from xlm.model.linear_cross_entropy import linear_cross_entropy

Reduction = Literal["mean", "sum", "none"]
"""How the losses of the labels become one number, as in torch; ``"none"`` keeps the loss of each position."""


def counted_labels(labels_BT: Tensor, valid_BT: Tensor | None, *, causal: bool) -> Tensor:
    """Return the label that each position predicts, -100 where it predicts nothing that counts.

    Args:
        labels_BT: (B, T) int64.
        valid_BT: (B, T) boolean, true at real positions; ``None`` if there is no padding.
        causal: Whether a position predicts the next label, not its own.
    """
    if valid_BT is not None:
        labels_BT = labels_BT.masked_fill(~valid_BT, IGNORED_LABEL)
    if causal:
        # Shifting the labels instead of slicing the logits avoids a copy of the large tensor. No tensor has T - 1
        # columns, because an exported model could then not take 2 tokens.
        labels_BT = labels_BT.roll(-1, 1)
        labels_BT[:, -1] = IGNORED_LABEL
        if valid_BT is not None:
            labels_BT = labels_BT.masked_fill(~valid_BT, IGNORED_LABEL)
    return labels_BT


def logits_loss(logits: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Return the loss of each position.

    Args:
        logits: (…, V) scores or log-probabilities.
        labels: (…) int64 ids from 0 to V - 1, or -100.
        smoothing: Share of the target distribution that is spread evenly over all words.

    Returns:
        (…) nats, in float32 or wider; 0 where the label is -100.
    """
    # Compute the loss of all positions. Selecting some would wait for a GPU and break a compiled graph.
    counted = labels != IGNORED_LABEL
    targets = labels.masked_fill(~counted, 0)
    losses = -target_logprobs(logits, targets)
    if smoothing:
        logits = at_least_float32(logits)
        losses = losses + smoothing * (logits.gather(-1, targets[..., None])[..., 0] - logits.mean(-1))
    return torch.where(counted, losses, 0)


def reduce_losses(losses: Tensor, labels: Tensor, reduction: Reduction, *, allow_empty: bool = False) -> Tensor:
    """Return the mean or sum of the losses of the labels that count, or the losses themselves.

    Args:
        losses: Losses of the positions, 0 where the label is -100; or their sum.
        labels: The labels.
        reduction: What to return.
        allow_empty: Whether the mean over no label is 0, not NaN.
    """
    if reduction == "none":
        return losses
    total = losses.sum()
    if reduction == "sum":
        return total
    count = (labels != IGNORED_LABEL).sum()
    return total / (count.clamp_min(1) if allow_empty else count)


def is_plain_head(head: nn.Module) -> TypeGuard[LinearHead | AdaptiveHead]:
    """Return whether a head computes what its class says, unchanged by hooks or overrides."""
    return type(head).forward in (LinearHead.forward, AdaptiveHead.forward) and not has_hooks(head)


def head_loss(
    head: LinearHead | AdaptiveHead,
    hidden_ND: Tensor,
    labels_N: Tensor,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    smoothing: float = 0.0,
) -> Tensor:
    """Return the loss of a plain head, with only one chunk of the scores in memory at a time.

    Args:
        head: The head; its ``forward`` is not called.
        hidden_ND: (N, D) hidden states.
        labels_N: (N,) int64 ids from 0 to V - 1, or for a linear head -100, which is ignored.
        reduction: Whether to return the mean or the sum over the labels.
        smoothing: As for ``logits_loss``; only for a linear head.

    Returns:
        Nats, a scalar in float32 or wider. With a linear head, it can be differentiated once.
    """
    if isinstance(head, AdaptiveHead):
        assert not smoothing
        # An adaptive softmax has few scores, since most clusters score only their own words.
        with torch.autocast(hidden_ND.device.type, enabled=False):
            # Under autocast, hidden states may be in a lower precision than the weights.
            losses_N = -at_least_float32(head.adaptive(hidden_ND.to(head.adaptive.head.weight.dtype), labels_N).output)
        return losses_N.mean() if reduction == "mean" else losses_N.sum()
    return linear_cross_entropy(
        hidden_ND, head.projection, head.bias, labels_N, reduction=reduction, smoothing=smoothing
    )


def chunked_losses(
    logits_of: Callable[[Tensor], Tensor],
    hidden_ND: Tensor,
    labels_N: Tensor,
    *,
    vocab_size: int,
    smoothing: float = 0.0,
) -> Tensor:
    """Return the loss of each position for any head, chunk by chunk. The backward pass computes the scores again.

    In an exported model there is one chunk, for any number of positions.

    Args:
        logits_of: Maps (C, D) hidden states to (C, V) scores.
        hidden_ND: (N, D) hidden states.
        labels_N: (N,) int64 ids from 0 to V - 1, or -100.
        vocab_size: V, for the size of a chunk.
        smoothing: As for ``logits_loss``.

    Returns:
        (N,) nats, in float32 or wider.
    """

    def losses(hidden_CD: Tensor, labels_C: Tensor) -> Tensor:
        return logits_loss(logits_of(hidden_CD), labels_C, smoothing=smoothing)

    # torch.func differentiates no checkpoints, so there all scores are kept.
    keeps = not torch.compiler.is_compiling() and is_transformed(hidden_ND)
    run = losses if keeps else partial(checkpoint, losses, use_reentrant=False)
    # The number of chunks would fix the shapes of an exported model. In torch 2.6, there is no is_exporting.
    exports = getattr(torch.compiler, "is_exporting", bool)()
    blocks = [slice(None)] if exports else [*row_blocks(len(hidden_ND), vocab_size, None)] or [slice(0, 0)]
    return torch.cat([run(hidden_ND[rows], labels_N[rows]) for rows in blocks])
