"""What decoding asks of a model: take prompts in, then one token a row at a time, and put rows in another order.

Shapes: B rows, T prompt positions, R rows afterwards, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xlm.model.network import Network
from xlm.model.transformer import TransformerInputs


class Stepper:
    """A model with its cache, decoding one batch; nothing is checked here, so the caller checks once, before.

    Runs under ``torch.inference_mode()``. What it returns belongs to the caller, who may write into it, until the
    next call.

    Args:
        model: A causal model in evaluation mode.
        rows: Rows B of the prompts.
        capacity: The most tokens that any row comes to hold.
    """

    def __init__(self, model: Network, *, rows: int, capacity: int) -> None:
        self.capacity = capacity
        self._model = model
        self._cache = model.new_cache(rows, capacity=capacity)
        self._positions_1S = torch.arange(model.config.max_position_embeddings, device=model.device)[None]

    @property
    def longest(self) -> int:
        """Tokens held by the longest row; below ``capacity`` there is room for one more step."""
        return self._cache.longest

    def prefill(self, inputs: TransformerInputs) -> Tensor:
        """Takes the prompts, padded on the right; called once, and first.

        Returns:
            (B, V) logits of each row's last real position.
        """
        hidden_BTD = self._model.transformer(inputs, cache=self._cache).hidden
        rows_B = torch.arange(hidden_BTD.shape[0], device=hidden_BTD.device)
        return self._model.logits(hidden_BTD[rows_B, self._cache.lengths - 1])

    def step(self, tokens_B: Tensor, langs_B: Tensor | None) -> Tensor:
        """Takes one token a row.

        Args:
            tokens_B: (B,) int64.
            langs_B: (B,) int64, their languages; ``None`` adds no language embedding.

        Returns:
            (B, V) logits.
        """
        cache = self._cache
        if cache.uniform_length is None:
            positions = cache.lengths[:, None]
        else:
            positions = self._positions_1S[:, cache.uniform_length : cache.uniform_length + 1]
        inputs = TransformerInputs(
            input_ids=tokens_B[:, None],
            position_ids=positions,
            langs=None if langs_B is None else langs_B[:, None],
        )
        return self._model.logits(self._model.transformer(inputs, cache=cache).hidden[:, 0])

    def reorder(self, rows_R: Tensor, *, shared: int = 0) -> None:
        """Row i goes on from where row ``rows_R[i]`` is; see ``XLMCache.select_rows``."""
        self._cache.select_rows(rows_R, shared=shared)
