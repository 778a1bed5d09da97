"""The interface between decoding and a model: prefill the prompts, step by one token per row, reorder rows.

Decoding uses a model through the protocol ``DecoderState`` only. ``CausalState`` implements it for decoder-only models
and for decoders with a source.

Shapes: B rows, T prompt positions, R rows after a reordering, V vocabulary.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from xlm.model.attention import Source
from xlm.model.cache import XLMCache
from xlm.model.config import XLMConfig
from xlm.model.decoding.cuda_graph import CapturedStep, GraphCapture
from xlm.model.head import check_word_scores
from xlm.model.transformer import Transformer, TransformerInputs

_GROUP_POSITIONS = 128
"""Minimum positions in a group of prompts on a CPU. With fewer, reading the weights takes longer than multiplying."""

_STEPS_WORTH_CAPTURING = 16
"""Minimum number of remaining steps for a capture, which costs as much as several steps. Near the end, rows finish one
by one, and each time a new capture would be needed. The number is an estimate, not a measurement."""


class DecoderState(Protocol):
    """A model and its state for the rows of one batch.

    The caller checks all inputs first, and makes each call under ``torch.inference_mode()``. Until the next call, the
    caller may overwrite a returned tensor.
    """

    capacity: int
    """Maximum number of tokens in a row."""

    @property
    def longest(self) -> int:
        """Number of tokens in the longest row; if it is below ``capacity``, there is room for another step."""

    def prefill(self, inputs: TransformerInputs) -> Tensor:
        """Process the prompts; called once, before any step.

        Args:
            inputs: (B, T) prompts, padded on the right.

        Returns:
            (B, V) logits at the last real position of each row.
        """

    def step(self, tokens_B: Tensor, langs_B: Tensor | None) -> Tensor:
        """Process one token per row.

        Args:
            tokens_B: (B,) int64.
            langs_B: (B,) int64 languages; ``None`` adds no language embedding.

        Returns:
            (B, V) logits.
        """

    def reorder(self, rows_R: Tensor, *, shared: int = 0) -> None:
        """Continue row i from the state of row ``rows_R[i]``; rows may be omitted or repeated.

        Args:
            rows_R: (R,) int64 current rows of the batch.
            shared: Number of leading tokens that rows i and ``rows_R[i]`` have in common. If above 0, both rows must be
                of the same length and R must be B.
        """


class CausalModel(Protocol):
    """The parts of a decoder-only model that ``CausalState`` uses."""

    config: XLMConfig
    transformer: Transformer

    @property
    def device(self) -> torch.device:
        """Device of the weights."""

    def new_cache(self, batch_size: int, *, capacity: int | None = None) -> XLMCache:
        """Return an empty cache for this model."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the scores of the next token for hidden states."""


class CausalState:
    """The ``DecoderState`` of a decoder: the model, its cache and its source, if it has one.

    Args:
        model: A causal model in evaluation mode.
        rows: Number of prompts, and so of rows B.
        capacity: Maximum number of tokens in a row.
        source: Encoder output with a row for each prompt; ``None`` for a model without encoder. With a source,
            all prompts must have the same length.
        cuda_graphs: Whether to capture a step as a CUDA graph and replay it; requires a CUDA device.
    """

    def __init__(
        self,
        model: CausalModel,
        *,
        rows: int,
        capacity: int,
        source: Source | None = None,
        cuda_graphs: bool = False,
    ) -> None:
        self.capacity = capacity
        self._source = source
        self._cuda_graphs = cuda_graphs
        self._capture: GraphCapture | None = None
        self._captured: CapturedStep | None = None
        self._model = model
        self._cache = model.new_cache(rows, capacity=capacity)
        self._positions_1S = torch.arange(model.config.max_position_embeddings, device=model.device)[None]

    @property
    def longest(self) -> int:
        """Number of tokens in the longest row."""
        return self._cache.longest

    def prefill(self, inputs: TransformerInputs) -> Tensor:
        """Process the prompts and return the (B, V) logits at the last real position of each row.

        Raises:
            InputError: The model's head does not score the words of its vocabulary.
        """
        logits_BV = self._model.logits(self._prefilled(inputs))
        check_word_scores(logits_BV, len(self._model.transformer.embeddings.word.weight))
        return logits_BV

    def _prefilled(self, inputs: TransformerInputs) -> Tensor:
        """Return the (B, D) hidden states at the last real position of each row."""
        if inputs.valid is None or inputs.valid.device.type != "cpu":
            return self._last_hidden(inputs, self._cache)
        order: list[int] = []
        last: list[Tensor] = []
        for rows in grouped_by_length(inputs.valid.sum(1).tolist()):
            rows_R = torch.tensor(rows)
            group = _select_rows(inputs, rows_R)
            cache = self._model.new_cache(len(rows), capacity=group.shape[1])
            last.append(self._last_hidden(group, cache))
            self._cache.put_rows(rows_R, cache)
            order += rows
        return torch.cat(last)[torch.tensor(order).argsort()]

    def _last_hidden(self, inputs: TransformerInputs, cache: XLMCache) -> Tensor:
        hidden_BTD: Tensor = self._model.transformer(inputs, cache=cache, source=self._source).hidden
        rows_B = torch.arange(len(hidden_BTD), device=hidden_BTD.device)
        return hidden_BTD[rows_B, cache.lengths - 1]

    def step(self, tokens_B: Tensor, langs_B: Tensor | None) -> Tensor:
        """Process one token per row and return the (B, V) logits."""
        if self._captured is None:
            if not self._cuda_graphs or self.capacity - self.longest < _STEPS_WORTH_CAPTURING:
                return self._compute(tokens_B, langs_B)
            if self._capture is None:
                self._capture = GraphCapture(self._model.device)
            self._cache.fix_shapes()
            self._captured = CapturedStep(self._capture, self._compute, self._cache, tokens_B, langs_B)
        return self._captured(tokens_B, langs_B)

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
        return self._model.logits(self._model.transformer(inputs, cache=cache, source=self._source).hidden[:, 0])

    def reorder(self, rows_R: Tensor, *, shared: int = 0) -> None:
        """Continue row i from the state of row ``rows_R[i]``."""
        captured_keys = self._cache.keys
        self._cache.select_rows(rows_R, shared=shared)
        if self._source is not None and shared == 0:
            self._source.select_target_rows(rows_R.tolist())
        if self._cache.keys is not captured_keys:
            self._captured = None  # the captured graph uses the memory of the old keys


def grouped_by_length(lengths: list[int]) -> list[list[int]]:
    """Group rows of similar length: little padding, but enough positions in each group to run fast."""
    order = sorted(range(len(lengths)), key=lambda row: lengths[row], reverse=True)
    rest = sum(lengths)
    groups: list[list[int]] = [[]]
    for row in order:
        group = groups[-1]
        if group and lengths[row] < lengths[group[0]] and len(group) * lengths[group[0]] >= _GROUP_POSITIONS <= rest:
            groups.append(group := [])
        group.append(row)
        rest -= lengths[row]
    return groups


def _select_rows(inputs: TransformerInputs, rows_R: Tensor) -> TransformerInputs:
    """Return the inputs of some rows, without columns that are padding in all of them."""
    assert inputs.valid is not None
    valid_RT = inputs.valid[rows_R]
    T = int(valid_RT.sum(1).max())
    valid_RT = valid_RT[:, :T]
    positions, langs = inputs.position_ids, inputs.langs
    return TransformerInputs(
        input_ids=None if inputs.input_ids is None else inputs.input_ids[rows_R, :T],
        inputs_embeds=None if inputs.inputs_embeds is None else inputs.inputs_embeds[rows_R, :T],
        position_ids=positions[:, :T] if len(positions) == 1 else positions[rows_R, :T],
        langs=langs if langs is None or langs.shape == (1, 1) else langs.expand(inputs.shape)[rows_R, :T],
        valid=None if bool(valid_RT.all()) else valid_RT,
    )
