"""Ids at padded positions never change results at real positions, and padding takes up no positions.

Oracle: the same model on each row's real tokens alone.
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

from tests.model.small_models import random_ids, relative_error, requested, small_model
from xlm.errors import InputError
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.outputs import XLMOutput

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


def _row_alone(model: XLMWithLMHeadModel, ids: Tensor, valid: Tensor, row: int, **inputs: Any) -> XLMOutput:
    real = valid[row]
    output: XLMOutput = model(
        ids[row : row + 1, real], langs=_langs(len(ids))[row : row + 1, real], output_hidden_states=True, **inputs
    )
    return output


def _assert_rows_equal(model: XLMWithLMHeadModel, ids: Tensor, valid: Tensor, **padding: Any) -> None:
    found = model(ids, langs=_langs(len(ids)), output_hidden_states=True, **padding)
    assert found.logits.isfinite().all()
    for row in range(len(ids)):
        alone = _row_alone(model, ids, valid, row)
        assert relative_error(found.logits[row, valid[row]], alone.logits[0]) < BOUND
        for here, there in zip(requested(found.hidden_states), requested(alone.hidden_states) or (), strict=True):
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
    for states in requested(output.hidden_states):
        assert torch.equal((states == 0).all(-1), ~MASKS[where])


@causal_and_bidirectional
@pytest.mark.parametrize("where", MASKS)
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
@torch.no_grad()
def test_by_attention_mask(causal: bool, where: str, dtype: torch.dtype) -> None:
    _assert_rows_equal(_model(causal), random_ids(B, T), MASKS[where], attention_mask=MASKS[where].to(dtype))


@causal_and_bidirectional
@pytest.mark.parametrize("where", MASKS)
@torch.no_grad()
def test_positions_that_are_given_win(causal: bool, where: str) -> None:
    model, ids, valid = _model(causal), random_ids(B, T), MASKS[where]
    positions = (torch.arange(T) + torch.arange(B)[:, None]).contiguous()
    found = model(ids, langs=_langs(B), attention_mask=valid, position_ids=positions).logits
    for row in range(B):
        alone = _row_alone(model, ids, valid, row, position_ids=positions[row : row + 1, valid[row]])
        assert relative_error(found[row, valid[row]], alone.logits[0]) < BOUND


@pytest.mark.parametrize("where", MASKS)
@torch.no_grad()
def test_the_last_layer_alone_and_packed_weights(where: str) -> None:
    model, ids, valid = _model(True), random_ids(B, T), MASKS[where]
    hidden = model.hidden(ids, langs=_langs(B), attention_mask=valid)
    packed = model.for_inference("float32")(ids, langs=_langs(B), attention_mask=valid).logits
    for row in range(B):
        alone = _row_alone(model, ids, valid, row)
        assert relative_error(hidden[row, valid[row]], (alone.hidden_states or ())[-1][0]) < BOUND
        assert relative_error(packed[row, valid[row]], alone.logits[0]) < 1e-5  # other kernels


def _by(padding: str, valid: Tensor, ids: Tensor, pad: int) -> tuple[Tensor, dict[str, Any]]:
    if padding == "pad":
        return ids.masked_fill(~valid, pad), {}
    return ids, {"lengths": valid.sum(1)} if padding == "lengths" else {"attention_mask": valid}


@causal_and_bidirectional
@pytest.mark.parametrize(
    ("where", "padding"),
    [("right", "lengths"), *((where, by) for where in ("right", "left") for by in ("attention_mask", "pad"))],
)
@torch.no_grad()
def test_the_loss_of_a_batch_is_that_of_its_rows(causal: bool, where: str, padding: str) -> None:
    """With ``labels=input_ids``, the loss is the mean over the predictions of all rows, as if each were alone."""
    model, valid = _model(causal), MASKS[where]
    ids, inputs = _by(padding, valid, random_ids(B, T), model.config.pad_token_id)
    found = float(requested(model(ids, langs=_langs(B), labels=ids, **inputs).loss))
    total, predicted = 0.0, 0
    for row in range(B):
        length = int(valid[row].sum()) - int(causal)
        if length:  # of a row of one token a causal model predicts nothing
            loss = _row_alone(model, ids, valid, row, labels=ids[row : row + 1, valid[row]]).loss
            assert loss is not None
            total, predicted = total + float(loss) * length, predicted + length
    assert found == pytest.approx(total / predicted, rel=BOUND)
    # Labels at padding are ignored, whatever they are; all others are checked.
    assert float(requested(model(ids, langs=_langs(B), labels=ids.masked_fill(~valid, -7), **inputs).loss)) == found


@torch.no_grad()
def test_a_label_on_either_side_of_a_hole_does_not_count() -> None:
    """Position 2 is padding: its prediction and its label do not count."""
    model, ids, mask = _model(True), random_ids(1, T), torch.ones(1, T, dtype=torch.bool)
    mask[0, 2] = False
    found = model(ids, langs="en", attention_mask=mask, labels=ids)
    scores = found.logits[0].double().log_softmax(-1)
    expected = -sum(float(scores[t, ids[0, t + 1]]) for t in (0, 3, 4, 5)) / 4
    assert float(requested(found.loss)) == pytest.approx(expected, rel=BOUND)


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        ({"attention_mask": torch.tensor([[0, 0, 1], [0, 1, 0]])}, "0 labels that are not ignored"),
        ({"lengths": torch.tensor([1, 1])}, "0 labels that are not ignored"),
        ({"attention_mask": torch.tensor([[1, 0, 1], [1, 0, 0]])}, "0 labels that are not ignored"),
    ],
    ids=str,
)
def test_nothing_left_to_count(inputs: dict[str, Any], found: str) -> None:
    ids = random_ids(2, 3)
    with pytest.raises(InputError) as caught:
        _model(True)(ids, langs="en", labels=ids, **inputs)
    assert (caught.value.where, str(caught.value.found)[: len(found)]) == ("labels", found)


INFINITY = float("inf")
NO_MASKS: dict[str, tuple[Any, str]] = {
    "added to scores": (torch.zeros(B, T).masked_fill(~MIDDLE, -INFINITY), "-inf, 0.0"),
    "added, all of them tokens but one": (torch.zeros(B, T).index_fill(1, torch.tensor([0]), -INFINITY), "-inf, 0.0"),
    "added, the least float": (torch.zeros(B, T).masked_fill(~RIGHT, torch.finfo(torch.float32).min), "-3.40"),
    "half a token": (torch.full((B, T), 0.5), "0.5"),
    "twos": (torch.full((B, T), 2), "2"),
    "minus one": (torch.full((B, T), -1), "-1"),
    "not a number": (torch.ones(B, T).masked_fill(~MIDDLE, float("nan")), "1.0, nan"),
    "many": (torch.arange(B * T).view(B, T), "0, 1, 10, 11, ..."),
}


@pytest.mark.parametrize("kind", NO_MASKS)
def test_a_mask_of_other_values_than_0_and_1_is_refused(kind: str) -> None:
    """A mask that is added to scores has 0 at tokens, so it would be interpreted the wrong way round."""
    mask, found = NO_MASKS[kind]
    for call in (_model(True), _model(True).hidden, _model(True).generate):
        with pytest.raises(InputError, match="has values other than 0 and 1") as caught:
            call(random_ids(B, T), langs="en", attention_mask=mask)
        assert caught.value.where == "attention_mask"
        assert found in str(caught.value.found)
        assert "attention_mask == 0" in str(caught.value.remedy)


def test_a_mask_of_zeros_alone_says_what_a_mask_is() -> None:
    with pytest.raises(InputError, match="1 at tokens and 0 at padding"):
        _model(True)(random_ids(B, T), langs="en", attention_mask=torch.zeros(B, T))


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
def test_a_pad_that_the_caller_calls_real_is_a_word_like_any_other(inputs: dict[str, Any]) -> None:
    """It gives the same result as a word with the same embedding. Without the mask, it is padding."""
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
    """In float64, with a bound of 1e-12 of the largest gradient, which any leak through the padding would exceed."""
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
    # Relative to the largest gradient of all. That of a key bias is 0, since it changes the scores of all keys equally.
    largest = max(float(gradient.abs().max()) for gradient in alone.values())
    for name, expected in alone.items():
        assert (together[name] - expected).abs().max() < 1e-12 * largest, name


def _gradients(model: XLMWithLMHeadModel, objective: Callable[[], Tensor]) -> dict[str, Any]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(objective(), parameters), strict=True))
