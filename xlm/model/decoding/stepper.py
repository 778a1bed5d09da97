"""What decoding asks of a model: take prompts in, then one token a row at a time, and put rows in another order.

Shapes: B rows, T prompt positions, R rows afterwards, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xlm.model.cache import XLMCache
from xlm.model.decoding.recorded import RecordedStep, Recorder
from xlm.model.head import check_word_scores
from xlm.model.network import Network
from xlm.model.transformer import TransformerInputs

_POSITIONS = 128
"""Of a group of prompts on a CPU: with fewer, weights are read more often than multiplying takes."""

_WORTH_RECORDING = 16
"""Steps that must still be possible, for a recording costs several, and rows near their end leave one by one; how many
pay for one has not been measured."""


class Stepper:
    """A model with its cache, decoding one batch; nothing is checked here, so the caller checks once, before.

    Runs under ``torch.inference_mode()``. What it returns belongs to the caller, who may write into it, until the
    next call.

    Args:
        model: A causal model in evaluation mode.
        rows: Rows B of the prompts.
        capacity: The most tokens that any row comes to hold.
        cuda_graphs: Whether steps are recorded and replayed; for a model on a CUDA device.
    """

    def __init__(self, model: Network, *, rows: int, capacity: int, cuda_graphs: bool = False) -> None:
        self.capacity = capacity
        self._cuda_graphs = cuda_graphs
        self._recorder: Recorder | None = None
        self._recorded: RecordedStep | None = None
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

        Raises:
            InputError: The model's head does not score the words of its vocabulary.
        """
        logits_BV = self._model.logits(self._prefilled(inputs))
        check_word_scores(logits_BV, len(self._model.transformer.embeddings.word.weight))
        return logits_BV

    def _prefilled(self, inputs: TransformerInputs) -> Tensor:
        """(B, D) hidden states of each row's last real position."""
        if inputs.valid is None or inputs.valid.device.type != "cpu":
            return self._last_hidden(inputs, self._cache)
        order: list[int] = []
        last: list[Tensor] = []
        for rows in grouped_by_length(inputs.valid.sum(1).tolist()):
            rows_R = torch.tensor(rows)
            group = _rows_of(inputs, rows_R)
            part = self._model.new_cache(len(rows), capacity=group.input_ids.shape[1])
            last.append(self._last_hidden(group, part))
            self._cache.put_rows(rows_R, part)
            order += rows
        return torch.cat(last)[torch.tensor(order).argsort()]

    def _last_hidden(self, inputs: TransformerInputs, cache: XLMCache) -> Tensor:
        hidden_BTD: Tensor = self._model.transformer(inputs, cache=cache).hidden
        rows_B = torch.arange(len(hidden_BTD), device=hidden_BTD.device)
        return hidden_BTD[rows_B, cache.lengths - 1]

    def step(self, tokens_B: Tensor, langs_B: Tensor | None) -> Tensor:
        """Takes one token a row.

        Args:
            tokens_B: (B,) int64.
            langs_B: (B,) int64, their languages; ``None`` adds no language embedding.

        Returns:
            (B, V) logits.
        """
        if self._recorded is None:
            if not self._cuda_graphs or self.capacity - self.longest < _WORTH_RECORDING:
                return self._compute(tokens_B, langs_B)
            if self._recorder is None:
                self._recorder = Recorder(self._model.device)
            self._cache.fix_shapes()
            self._recorded = RecordedStep(self._recorder, self._compute, self._cache, tokens_B, langs_B)
        return self._recorded(tokens_B, langs_B)

    def _compute(self, tokens_B: Tensor, langs_B: Tensor | None) -> Tensor:
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
        recorded = self._cache.keys
        self._cache.select_rows(rows_R, shared=shared)
        if self._cache.keys is not recorded:
            self._recorded = None  # which reads and writes what the cache held before


def grouped_by_length(lengths: list[int]) -> list[list[int]]:
    """Rows in groups of similar lengths, so that little of a group is padding; each has enough positions to be fast."""
    order = sorted(range(len(lengths)), key=lambda row: lengths[row], reverse=True)
    left = sum(lengths)
    groups: list[list[int]] = [[]]
    for row in order:
        group = groups[-1]
        if group and lengths[row] < lengths[group[0]] and len(group) * lengths[group[0]] >= _POSITIONS <= left:
            groups.append(group := [])
        group.append(row)
        left -= lengths[row]
    return groups


def _rows_of(inputs: TransformerInputs, rows_R: Tensor) -> TransformerInputs:
    assert inputs.valid is not None
    valid_RT = inputs.valid[rows_R]
    T = int(valid_RT.sum(1).max())
    valid_RT = valid_RT[:, :T]
    positions, langs = inputs.position_ids, inputs.langs
    return TransformerInputs(
        input_ids=inputs.input_ids[rows_R, :T],
        position_ids=positions[:, :T] if len(positions) == 1 else positions[rows_R, :T],
        langs=langs if langs is None or langs.shape == (1, 1) else langs.expand_as(inputs.input_ids)[rows_R, :T],
        valid=None if bool(valid_RT.all()) else valid_RT,
    )
