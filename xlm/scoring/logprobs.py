"""Log-probabilities of given tokens.

Shapes: T predicted tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xlm.model.head import target_logprobs
from xlm.model.lm import XLMWithLMHeadModel


def token_logprobs(model: XLMWithLMHeadModel, ids: Sequence[int], language: str | int | None) -> Tensor:
    """Log-probability of every token but the first, each given all that stands before it.

    Args:
        model: A causal model, in evaluation mode.
        ids: T + 1 token ids, T at least 1.
        language: Name or id of their language; ``None`` for a model without language embeddings.

    Returns:
        (T,) float32, nats; on the model's device.

    Raises:
        InputError: More tokens than the model has positions, or ids that are not in its vocabulary.
    """
    # The last token predicts nothing, so it is not fed: that leaves its position to one token more.
    fed_1T = torch.tensor([list(ids[:-1])], device=model.device)
    logits_TV = model(fed_1T, langs=language).logits[0]
    return target_logprobs(logits_TV, torch.tensor(list(ids[1:]), device=model.device))
