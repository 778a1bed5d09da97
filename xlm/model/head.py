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


class LinearHead(nn.Module):
    """One score a word: ``hidden @ weight.T + bias``, with the word embeddings for weight when they are shared.

    Source: the original's ``PredLayer``.
    """

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(config.vocab_size))
        self.weight = None if config.tied else nn.Parameter(torch.empty(config.vocab_size, config.emb_dim))

    def logits(self, hidden_BTD: Tensor, word_embeddings_VD: Tensor) -> Tensor:
        """Unnormalised scores, (B, T, V)."""
        return F.linear(hidden_BTD, word_embeddings_VD if self.weight is None else self.weight, self.bias)

    def loss(self, logits_BTV: Tensor, hidden_BTD: Tensor, labels_BT: Tensor) -> Tensor:
        """Mean negative log-probability of the labels that count, in nats; a scalar in float32 or wider."""
        logits_CV = at_least_float32(logits_BTV).flatten(0, 1)
        return F.cross_entropy(logits_CV, labels_BT.flatten(), ignore_index=IGNORED_LABEL)


class AdaptiveHead(nn.Module):
    """Adaptive softmax: frequent words in one head, the others in narrower tail clusters. Never tied.

    Source: Grave et al. 2017 through ``torch.nn.AdaptiveLogSoftmaxWithLoss``, as in the original's ``PredLayer``.
    """

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        self.adaptive = nn.AdaptiveLogSoftmaxWithLoss(
            config.emb_dim, config.vocab_size, list(config.asm_cutoffs), config.asm_div_value, head_bias=True
        )

    def logits(self, hidden_BTD: Tensor, word_embeddings_VD: Tensor) -> Tensor:
        """Log-probabilities, (B, T, V): this head has no unnormalised scores."""
        logits_CV: Tensor = self.adaptive.log_prob(hidden_BTD.flatten(0, 1))
        return logits_CV.view(*hidden_BTD.shape[:2], -1)

    def loss(self, logits_BTV: Tensor, hidden_BTD: Tensor, labels_BT: Tensor) -> Tensor:
        """Mean negative log-probability of the labels that count, in nats; a scalar in float32 or wider."""
        counted_BT = labels_BT != IGNORED_LABEL
        output: Tensor = self.adaptive(hidden_BTD[counted_BT], labels_BT[counted_BT]).output
        return -at_least_float32(output).mean()
