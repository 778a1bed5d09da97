"""Forward passes over pieces of a text, with a cache, equal one forward pass.

Oracle: the same model without a cache, each row by itself.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.model.small_models import random_ids, relative_error, requested, small_config, small_model
from xlm.errors import InputError
from xlm.model.cache import XLMCache
from xlm.model.lm import XLMWithLMHeadModel

BOUND = 2e-6  # float32 roundings of the same sums in another order
LONGEST = 16


@functools.cache
def _model(**changes: Any) -> XLMWithLMHeadModel:
    return small_model(seed=1, **changes)


def _langs(ids: Tensor) -> Tensor:
    return ids % 2  # a language that changes from token to token


def _split(ids: Tensor, pieces: list[int]) -> list[Tensor]:
    edges = [0, *itertools.accumulate(pieces)]
    return [ids[:, start:end] for start, end in itertools.pairwise(edges)]


@st.composite
def _splits(draw: st.DrawFn) -> list[int]:
    """A strategy for the lengths of the pieces of 1 to 16 tokens."""
    tokens = draw(st.integers(1, LONGEST))
    cuts = draw(st.sets(st.integers(1, tokens - 1))) if tokens > 1 else set()
    edges = [0, *sorted(cuts), tokens]
    return [end - start for start, end in itertools.pairwise(edges)]


@given(pieces=_splits(), rows=st.integers(1, 3), changes=st.sampled_from([{}, {"sinusoidal_embeddings": True}]))
@settings(max_examples=30, deadline=None)
@torch.no_grad()
def test_any_split_equals_one_forward(pieces: list[int], rows: int, changes: dict[str, Any]) -> None:
    model = _model(**changes)
    ids = random_ids(rows, sum(pieces))
    expected = model(ids, langs=_langs(ids), output_hidden_states=True)
    cache = model.new_cache(rows)
    found = []
    for piece in _split(ids, pieces):
        output = model(piece, langs=_langs(piece), cache=cache, output_hidden_states=True)
        assert output.cache is cache
        found.append((output.logits, *requested(output.hidden_states)))
    joined = [torch.cat(parts, dim=1) for parts in zip(*found, strict=True)]
    for here, there in zip(joined, (expected.logits, *requested(expected.hidden_states)), strict=True):
        assert relative_error(here, there) < BOUND
    assert cache.lengths.tolist() == [sum(pieces)] * rows


@given(
    chunks=st.lists(st.lists(st.integers(1, 4), min_size=3, max_size=3), min_size=1, max_size=3),
    steps=st.integers(0, 4),
    capacity=st.sampled_from([None, LONGEST]),
)
@settings(max_examples=30, deadline=None)
@torch.no_grad()
def test_ragged_rows_then_single_tokens_equal_each_row_alone(
    chunks: list[list[int]], steps: int, capacity: int | None
) -> None:
    """Each piece has 1 to 4 tokens in each of three rows, padded on the right with words that must be ignored."""
    model = _model()
    cache = model.new_cache(3, capacity=capacity)
    rows: list[list[Tensor]] = [[], [], []]
    logits: list[list[Tensor]] = [[], [], []]
    for seed, lengths in enumerate([*chunks, *([[1, 1, 1]] * steps)]):
        ids = random_ids(3, max(lengths), seed=seed)
        found = model(ids, langs=_langs(ids), lengths=torch.tensor(lengths), cache=cache).logits
        for row, length in enumerate(lengths):
            rows[row].append(ids[row, :length])
            logits[row].append(found[row, :length])
    for row in range(3):
        alone = torch.cat(rows[row])[None]
        expected = model(alone, langs=_langs(alone)).logits[0]
        assert relative_error(torch.cat(logits[row]), expected) < BOUND
    assert cache.lengths.tolist() == [sum(len(part) for part in parts) for parts in rows]


@pytest.mark.parametrize(("rows", "fused"), [(21, True), (22, False)])  # of three heads: 63 and 66
@torch.no_grad()
def test_single_tokens_of_few_and_many_ragged_rows(rows: int, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rows take plain operations, in which a row must not see the slots of longer rows either."""
    model, ids = _model(), random_ids(rows, 9)
    lengths = torch.arange(rows) % 6 + 1
    cache = model.new_cache(rows)
    model(ids[:, :6], langs=_langs(ids[:, :6]), lengths=lengths, cache=cache)
    kernel = Mock(side_effect=nn.functional.scaled_dot_product_attention)
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", kernel)
    steps = [model(ids[:, [step]], langs=_langs(ids[:, [step]]), cache=cache).logits for step in (6, 7, 8)]
    assert kernel.called == fused
    for row, length in enumerate(lengths.tolist()):
        alone = torch.cat([ids[row, :length], ids[row, 6:]])[None]
        expected = model(alone, langs=_langs(alone)).logits[0, length:]
        assert relative_error(torch.cat(steps, 1)[row], expected) < BOUND


@torch.no_grad()
def test_pad_in_a_prompt_is_padding_with_a_cache_too() -> None:
    model = _model()
    ids = random_ids(2, 5)
    ids[1, 3:] = model.config.pad_token_id
    cache = model.new_cache(2)
    model(ids, langs="en", cache=cache)
    following = random_ids(2, 1, seed=9)
    found = model(following, langs="en", cache=cache).logits[1, 0]
    expected = model(torch.cat([ids[1:, :3], following[1:]], dim=1), langs="en").logits[0, -1]
    assert cache.lengths.tolist() == [6, 4]
    assert relative_error(found, expected) < BOUND


@torch.no_grad()
def test_batched_equals_single() -> None:
    model = _model()
    ids = random_ids(4, 9)
    together, alone = model.new_cache(4), [model.new_cache(1) for _ in range(4)]
    for piece in _split(ids, [4, 1, 4]):
        batched = model(piece, langs="de", cache=together).logits
        for row in range(4):
            single = model(piece[row : row + 1], langs="de", cache=alone[row]).logits
            assert relative_error(batched[row : row + 1], single) < BOUND


@torch.no_grad()
def test_the_last_allowed_position_and_not_one_more() -> None:
    model = _model()
    ids = random_ids(2, LONGEST)
    cache = model.new_cache(2)
    model(ids[:, :-1], langs="en", cache=cache)
    last = model(ids[:, -1:], langs="en", cache=cache).logits
    assert relative_error(last, model(ids, langs="en").logits[:, -1:]) < BOUND
    with pytest.raises(InputError, match="The cache is full"):
        model(ids[:, -1:], langs="en", cache=cache)
    assert cache.lengths.tolist() == [LONGEST, LONGEST]


@torch.no_grad()
def test_a_ragged_cache_reaches_the_last_position() -> None:
    model = _model()
    ids = random_ids(2, LONGEST)
    cache = model.new_cache(2)
    model(ids[:, :15], langs="en", lengths=torch.tensor([15, 2]), cache=cache)
    last = model(ids[:, 15:], langs="en", cache=cache).logits
    assert relative_error(last[0, 0], model(ids[:1], langs="en").logits[0, 15]) < BOUND
    short = torch.cat([ids[1:, :2], ids[1:, 15:]], dim=1)
    assert relative_error(last[1, 0], model(short, langs="en").logits[0, 2]) < BOUND


@torch.no_grad()
def test_padding_takes_no_room_in_a_cache() -> None:
    model = _model()
    cache = model.new_cache(2, capacity=8)
    model(random_ids(2, 5), langs="en", lengths=torch.tensor([3, 2]), cache=cache)
    model(random_ids(2, 5), langs="en", cache=cache)
    assert cache.lengths.tolist() == [8, 7]


@torch.no_grad()
def test_given_positions_are_used_with_a_cache() -> None:
    model = _model()
    ids, positions = random_ids(2, 5), torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    cache = model.new_cache(2)
    parts = [
        model(ids[:, part], langs="en", position_ids=positions[:, part], cache=cache).logits
        for part in (slice(0, 3), slice(3, 5))
    ]
    expected = model(ids, langs="en", position_ids=positions).logits
    assert relative_error(torch.cat(parts, dim=1), expected) < BOUND


@torch.no_grad()
def test_attention_weights_reach_back_into_the_cache() -> None:
    model = _model()
    ids = random_ids(2, 7)
    cache = model.new_cache(2)
    model(ids[:, :4], langs="en", cache=cache)
    found = requested(model(ids[:, 4:], langs="en", cache=cache, output_attentions=True).attentions)
    expected = requested(model(ids, langs="en", output_attentions=True).attentions)
    for here, there in zip(found, expected, strict=True):
        assert here.shape == (2, 3, 3, 7)
        assert relative_error(here, there[:, :, 4:]) < BOUND


@torch.no_grad()
def test_lengths_that_say_nothing_is_padding_keep_the_rows_uniform() -> None:
    """Rows of different lengths need a mask and a scatter in each later step; rows of equal length must not."""
    model = _model()
    cache = model.new_cache(2)
    model(random_ids(2, 5), langs="en", lengths=torch.tensor([5, 5]), cache=cache)
    assert cache.uniform_length == 5


@torch.no_grad()
@pytest.mark.parametrize("lengths", [None, torch.tensor([5, 2])], ids=["uniform", "ragged"])
def test_a_cache_of_another_type_than_the_model_works(lengths: Tensor | None) -> None:
    model = _model()
    ids, following = random_ids(2, 5), random_ids(2, 1, seed=9)
    outputs = []
    for dtype in (torch.float32, torch.float64):
        cache = XLMCache(model.config, 2, dtype=dtype)
        model(ids, langs="en", lengths=lengths, cache=cache)
        outputs.append(model(following, langs="en", cache=cache).logits)
    assert relative_error(outputs[1], outputs[0]) < BOUND


@torch.no_grad()
@pytest.mark.parametrize("lengths", [None, torch.tensor([5, 2])], ids=["uniform", "ragged"])
def test_a_cache_works_under_autocast(lengths: Tensor | None) -> None:
    model = _model()
    ids, following = random_ids(2, 5), random_ids(2, 1, seed=9)

    def last_logits() -> Tensor:
        cache = model.new_cache(2)
        model(ids, langs="en", lengths=lengths, cache=cache)
        logits: Tensor = model(following, langs="en", cache=cache).logits
        return logits

    expected = last_logits()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = last_logits()
    # bfloat16 keeps 8 bits: each of some ten matrix products in a row may be off by 2**-9 of its largest value.
    assert relative_error(found, expected) < 10 * 2**-9


@pytest.mark.parametrize(
    ("batch_size", "capacity"), [(0, None), (-1, None), (1, 0), (1, LONGEST + 1)], ids=["no", "less", "none", "more"]
)
def test_a_cache_that_cannot_be_made(batch_size: int, capacity: int | None) -> None:
    with pytest.raises(InputError) as caught:
        XLMCache(small_config(), batch_size, capacity=capacity)
    assert f"batch_size = {batch_size}" in str(caught.value.found)
    assert f"from 1 to {LONGEST}" in str(caught.value.expected)


def _refused(model: XLMWithLMHeadModel, cache: XLMCache, **inputs: Any) -> InputError:
    before = cache.keys.clone(), cache.lengths.clone()
    with pytest.raises(InputError) as caught:
        model(random_ids(2, 5), langs="en", cache=cache, **inputs)
    assert torch.equal(cache.keys, before[0])
    assert torch.equal(cache.lengths, before[1])
    return caught.value


@torch.no_grad()
def test_a_full_cache_is_refused() -> None:
    model = _model()
    cache = model.new_cache(2, capacity=8)
    model(random_ids(2, 4), langs="en", cache=cache)
    error = _refused(model, cache)
    assert (error.what, error.where) == ("the cache is full", "cache")
    assert (error.found, error.expected) == ("4 tokens in the cache and 5 new ones", "at most 8 together")
    assert "16" in str(error.remedy)


@torch.no_grad()
def test_another_batch_size_is_refused() -> None:
    error = _refused(_model(), _model().new_cache(3))
    assert error.what == "the cache has another batch size than input_ids"
    assert (error.where, error.found, error.expected) == ("cache", 3, 2)


@torch.no_grad()
def test_the_cache_of_another_model_is_refused() -> None:
    error = _refused(_model(), XLMCache(small_config(n_layers=3), 2))
    assert error.what == "the cache was made for another model"
    assert (error.where, error.expected) == ("cache", (2, 3, 8))


def test_gradients_are_refused() -> None:
    error = _refused(_model(), _model().new_cache(2))
    assert (error.where, error.found) == ("cache", "gradients enabled")
    assert "no_grad" in str(error.expected)


@torch.no_grad()
def test_a_bidirectional_model_is_refused() -> None:
    model = _model(causal=False)
    error = _refused(model, model.new_cache(2))
    assert (error.where, error.found, error.expected) == ("cache", "causal = False", "a causal model")


@torch.no_grad()
def test_padding_on_the_left_is_refused() -> None:
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]])
    error = _refused(_model(), _model().new_cache(2), attention_mask=mask)
    assert error.what == "with a cache, padding must be on the right"
    assert error.where == "attention_mask"
    assert "tokens first" in str(error.expected)


@torch.no_grad()
def test_fixed_shapes_change_no_number() -> None:
    """Rows of one length, then of several, with a selection of rows in between."""
    model, ids = _model(), random_ids(3, 8)
    plain, fixed = model.new_cache(3), model.new_cache(3)
    fixed.fix_shapes()
    chosen = torch.tensor([2, 0])
    for pieces, lengths in ((ids[:, :3], None), (ids[chosen, 3:5], None), (ids[chosen, 5:8], torch.tensor([1, 3]))):
        if len(pieces) < plain.batch_size:
            for cache in (plain, fixed):
                cache.select_rows(chosen)
        found, expected = (model(pieces, langs="en", lengths=lengths, cache=cache) for cache in (fixed, plain))
        assert fixed.slots(1) == fixed.capacity == LONGEST
        assert fixed.uniform_length is None
        assert relative_error(found.logits, expected.logits) < BOUND
