"""Hidden states to scores of the next word.

Shapes: B batch, T positions, D model width, V vocabulary.
"""

from __future__ import annotations

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

    def loss(self, logits_BTV: Tensor, hidden_BTD: Tensor, labels_BT: Tensor) -> Tensor:
        """Mean negative log-probability of the labels that count, in nats; a scalar in float32 or wider."""
        counted_BT = labels_BT != IGNORED_LABEL
        logprobs_BT = target_logprobs(logits_BTV, labels_BT.masked_fill(~counted_BT, 0))
        return -logprobs_BT[counted_BT].mean()


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

    def loss(self, logits_BTV: Tensor, hidden_BTD: Tensor, labels_BT: Tensor) -> Tensor:
        """Mean negative log-probability of the labels that count, in nats; a scalar in float32 or wider."""
        counted_BT = labels_BT != IGNORED_LABEL
        output: Tensor = self.adaptive(hidden_BTD[counted_BT], labels_BT[counted_BT]).output
        return -at_least_float32(output).mean()
