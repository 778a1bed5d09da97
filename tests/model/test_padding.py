"""What stands at padded positions changes nothing at real ones, wherever the padding is.

Oracle: the same model on each row's real tokens alone, at the positions they have in the batch.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.model.small_models import random_ids, relative_error, small_model
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.network import XLMOutput

BOUND = 2e-6  # float32 roundings of the same sums in another order
B, T = 4, 7
LENGTHS = torch.tensor([7, 4, 1, 6])
RIGHT = torch.arange(T) < LENGTHS[:, None]
MIDDLE = torch.tensor(
    [[1, 1, 0, 0, 1, 1, 1], [0, 1, 0, 1, 0, 1, 0], [0, 0, 0, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]]
).bool()
MASKS = {"right": RIGHT, "left": RIGHT.flip(1), "middle": MIDDLE, "none": torch.ones(B, T, dtype=torch.bool)}

causal_and_bidirectional = pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])


@functools.cache
def _model(causal: bool, dtype: torch.dtype = torch.float32) -> XLMWithLMHeadModel:
    return small_model(seed=2, causal=causal, dtype=dtype)


def _langs(rows: int) -> Tensor:
    return random_ids(rows, T, seed=8) % 2


def _row_alone(model: XLMWithLMHeadModel, ids: Tensor, valid: Tensor, row: int) -> XLMOutput:
    real = valid[row]
    output: XLMOutput = model(
        ids[row : row + 1, real],
        langs=_langs(len(ids))[row : row + 1, real],
        position_ids=torch.arange(T)[None, real],
        output_hidden_states=True,
    )
    return output


def _assert_rows_equal(model: XLMWithLMHeadModel, ids: Tensor, valid: Tensor, **padding: Any) -> None:
    found = model(ids, langs=_langs(len(ids)), output_hidden_states=True, **padding)
    assert found.logits.isfinite().all()
    for row in range(len(ids)):
        alone = _row_alone(model, ids, valid, row)
        assert relative_error(found.logits[row, valid[row]], alone.logits[0]) < BOUND
        for here, there in zip(found.hidden_states, alone.hidden_states or (), strict=True):
            assert here.isfinite().all()
            assert relative_error(here[row, valid[row]], there[0]) < BOUND


@causal_and_bidirectional
@torch.no_grad()
def test_by_lengths(causal: bool) -> None:
    _assert_rows_equal(_model(causal), random_ids(B, T), RIGHT, lengths=LENGTHS)


@causal_and_bidirectional
@pytest.mark.parametrize("where", MASKS)
@torch.no_grad()
def test_by_pad_alone(causal: bool, where: str) -> None:
    model = _model(causal)
    _assert_rows_equal(model, random_ids(B, T).masked_fill(~MASKS[where], model.config.pad_token_id), MASKS[where])


@causal_and_bidirectional
@pytest.mark.parametrize("where", MASKS)
@torch.no_grad()
def test_hidden_states_are_zero_at_padding_as_in_the_original(causal: bool, where: str) -> None:
    output = _model(causal)(random_ids(B, T), langs="en", attention_mask=MASKS[where], output_hidden_states=True)
    for states in output.hidden_states:
        assert torch.equal((states == 0).all(-1), ~MASKS[where])


@causal_and_bidirectional
@pytest.mark.parametrize("where", MASKS)
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
@torch.no_grad()
def test_by_attention_mask(causal: bool, where: str, dtype: torch.dtype) -> None:
    _assert_rows_equal(_model(causal), random_ids(B, T), MASKS[where], attention_mask=MASKS[where].to(dtype))


@given(
    mask=st.lists(
        st.lists(st.booleans(), min_size=T, max_size=T).filter(any),
        min_size=1,
        max_size=3,
    ),
    causal=st.booleans(),
)
@settings(max_examples=30, deadline=None)
@torch.no_grad()
def test_by_any_mask(mask: list[list[bool]], causal: bool) -> None:
    valid = torch.tensor(mask)
    _assert_rows_equal(_model(causal), random_ids(len(mask), T), valid, attention_mask=valid)


@pytest.mark.parametrize(
    "inputs", [{"attention_mask": MASKS["none"]}, {"lengths": torch.full((B,), T)}], ids=["attention_mask", "lengths"]
)
@torch.no_grad()
def test_a_pad_that_the_caller_calls_real_is_a_word_like_any_other(inputs: dict[str, Tensor]) -> None:
    """So it gives what a word with the same embedding gives; without the mask it is padding."""
    model, pad, twin = copy.deepcopy(_model(True)), 2, 13
    model.transformer.embeddings.word.weight[twin] = model.transformer.embeddings.word.weight[pad]
    ids = random_ids(B, T)
    as_pad, as_word = ids.masked_fill(~MIDDLE, pad), ids.masked_fill(~MIDDLE, twin)
    expected = model(as_word, langs="en").logits
    assert relative_error(model(as_pad, langs="en", **inputs).logits, expected) < BOUND
    assert relative_error(model(as_pad, langs="en").logits[MIDDLE], expected[MIDDLE]) > 100 * BOUND


@causal_and_bidirectional
@pytest.mark.parametrize("where", MASKS)
def test_gradients_of_a_batch_are_the_sum_of_its_rows(causal: bool, where: str) -> None:
    """In float64, so that 1e-12 of the largest gradient leaves no room for a leak through the padding."""
    model, valid = _model(causal, torch.float64), MASKS[where]
    ids = random_ids(B, T)
    weights = torch.randn(B, T, model.config.vocab_size, generator=torch.Generator().manual_seed(0)).double()
    together = _gradients(
        model,
        lambda: (model(ids, langs=_langs(B), attention_mask=valid).logits * weights)[valid].sum(),
    )
    alone = _gradients(
        model,
        lambda: torch.stack(
            [(_row_alone(model, ids, valid, row).logits[0] * weights[row, valid[row]]).sum() for row in range(B)]
        ).sum(),
    )
    # Of the largest of all: the exact gradient of a key bias is 0, since softmax ignores what is equal for all keys.
    largest = max(float(gradient.abs().max()) for gradient in alone.values())
    for name, expected in alone.items():
        assert (together[name] - expected).abs().max() < 1e-12 * largest, name


def _gradients(model: XLMWithLMHeadModel, objective: Callable[[], Tensor]) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(objective(), parameters), strict=True))
