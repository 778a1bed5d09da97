"""Attention weights, and that requesting them changes no other result.

Oracle: torch's fused kernel for the outputs, and the definition in the paper for the weights.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model.small_models import random_ids, relative_error, requested, small_model
from xlm.model.attention import Attention, AttentionMask

B, T = 3, 6
LENGTHS = torch.tensor([6, 3, 1])
LEFT = (torch.arange(T) < LENGTHS[:, None]).flip(1)
PADDING: dict[str, dict[str, Any]] = {"none": {}, "right": {"lengths": LENGTHS}, "left": {"attention_mask": LEFT}}

causal_and_bidirectional = pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])


def _valid(padding: str) -> Tensor:
    return {"none": torch.ones_like(LEFT), "right": LEFT.flip(1), "left": LEFT}[padding]


@causal_and_bidirectional
@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_the_path_with_weights_equals_the_fused_one(causal: bool, padding: str, dtype: torch.dtype) -> None:
    model, ids = small_model(causal=causal, dtype=dtype), random_ids(B, T)
    fused = model(ids, langs="en", **PADDING[padding]).logits
    written_out = model(ids, langs="en", output_attentions=True, **PADDING[padding]).logits
    # About 16 roundings of that type.
    assert relative_error(written_out, fused) < 16 * torch.finfo(dtype).eps


@causal_and_bidirectional
@pytest.mark.parametrize("padding", PADDING)
@torch.no_grad()
def test_rows_sum_to_one_and_see_only_what_they_may(causal: bool, padding: str) -> None:
    model, valid = small_model(causal=causal), _valid(padding)
    seen = requested(model(random_ids(B, T), langs="en", output_attentions=True, **PADDING[padding]).attentions)
    may_see = valid[:, None, :].expand(B, T, T)
    if causal:
        may_see = may_see.tril()
    for weights in seen:
        assert weights.isfinite().all()
        assert weights.sum(-1).sub(1).abs().max() < 1e-6
        by_query, allowed = weights.transpose(1, 2)[valid], may_see[valid][:, None].expand(-1, 3, T)
        assert (by_query[~allowed] == 0).all()
        assert (by_query[allowed] > 0).all()


@torch.no_grad()
def test_weights_by_hand() -> None:
    model = small_model()
    attention = model.transformer.layers[0].attention
    assert isinstance(attention, Attention)
    x = torch.randn(1, T, 24, generator=torch.Generator().manual_seed(0))
    _, weights = attention(x, AttentionMask(is_causal=True), layer=0, output_attentions=True)
    assert weights is not None
    width = 24 // 3
    for head in range(3):
        part = slice(head * width, (head + 1) * width)
        queries, keys = attention.query(x)[0, :, part], attention.key(x)[0, :, part]
        for t in range(T):
            scores = (keys[: t + 1] @ queries[t]) / width**0.5
            assert relative_error(weights[0, head, t, : t + 1], scores.exp() / scores.exp().sum()) < 2e-6


@causal_and_bidirectional
@torch.no_grad()
def test_a_later_token_changes_earlier_logits_only_when_bidirectional(causal: bool) -> None:
    model, ids = small_model(causal=causal), random_ids(B, T)
    changed = ids.clone()
    changed[:, 4] = 14 + (ids[:, 4] - 13) % 47
    before, after = model(ids, langs="en").logits, model(changed, langs="en").logits
    assert torch.equal(before[:, :4], after[:, :4]) == causal
    assert not torch.equal(before[:, 4:], after[:, 4:])


@pytest.mark.parametrize("output_attentions", [False, True], ids=["fused", "weights"])
@pytest.mark.parametrize("changes", [{"dropout": 0.0}, {"attention_dropout": 0.0}], ids=["attention", "activations"])
@torch.no_grad()
def test_dropout_acts_in_training_only(changes: dict[str, Any], output_attentions: bool) -> None:
    model, ids = small_model(**{"dropout": 0.5, "attention_dropout": 0.5, **changes}), random_ids(B, T)

    def logits() -> Tensor:
        found: Tensor = model(ids, langs="en", output_attentions=output_attentions).logits
        return found

    evaluated = logits()
    assert torch.equal(logits(), evaluated)
    model.train()
    torch.manual_seed(0)
    first, second = logits(), logits()
    assert relative_error(first, evaluated) > 0.01
    assert relative_error(second, first) > 0.01
    torch.manual_seed(0)
    assert torch.equal(logits(), first)
    assert torch.equal(model.eval()(ids, langs="en", output_attentions=output_attentions).logits, evaluated)


@torch.no_grad()
def test_no_dropout_leaves_training_equal_to_evaluation() -> None:
    model, ids = small_model(dropout=0.0, attention_dropout=0.0), random_ids(B, T)
    evaluated = model(ids, langs="en").logits
    assert torch.equal(model.train()(ids, langs="en").logits, evaluated)


@torch.no_grad()
def test_returned_weights_are_those_before_dropout() -> None:
    model, ids = small_model(dropout=0.0, attention_dropout=0.5), random_ids(B, T)
    expected = requested(model(ids, langs="en", output_attentions=True).attentions)[0]
    assert torch.equal(requested(model.train()(ids, langs="en", output_attentions=True).attentions)[0], expected)
