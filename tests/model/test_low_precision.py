"""The error of half precision on the CPU, compared with float32.

Oracle: the float32 model whose weights are the half-precision ones widened, so that only arithmetic differs. A matrix
product or a LayerNorm ends in one rounding, of at most half the type's spacing ``eps``. A layer has ten such results,
one after another (q/k, scores, context, output, sum and norm, up, down, sum and norm); two layers, embeddings and head
make about 22. Rounding errors are of either sign, so that together they stay near sqrt(22) * eps / 2 of the largest
value. The worst of some thousand numbers is held to twice that, their mean to a quarter of it.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model.small_models import random_ids, relative_error, requested, small_model
from xlm.model.lm import XLMWithLMHeadModel

ROUNDINGS = 22
B, T = 4, 9
HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
HEADS: dict[str, dict[str, Any]] = {
    "tied": {},
    "adaptive": {"asm": True, "asm_cutoffs": (20, 40), "asm_div_value": 2.0},
}


def _pair(dtype: torch.dtype, **changes: Any) -> tuple[XLMWithLMHeadModel, XLMWithLMHeadModel]:
    half = small_model(seed=3, dtype=dtype, **changes)
    return half, copy.deepcopy(half).float()


def _assert_near(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    typical = ROUNDINGS**0.5 * torch.finfo(dtype).eps / 2
    assert relative_error(found, expected) < 2 * typical
    assert float((found.float() - expected).abs().mean() / expected.abs().max()) < typical / 4


@HALVES
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("output_attentions", [False, True], ids=["fused", "weights"])
@torch.no_grad()
def test_logits_and_loss(dtype: torch.dtype, head: str, causal: bool, output_attentions: bool) -> None:
    half, full = _pair(dtype, causal=causal, **HEADS[head])
    ids = random_ids(B, T)
    inputs: dict[str, Any] = {"langs": "en", "lengths": torch.tensor([9, 5, 1, 7]), "labels": ids}
    found, expected = half(ids, **inputs, output_attentions=output_attentions), full(ids, **inputs)
    assert found.logits.dtype == dtype
    assert requested(found.loss).dtype == torch.float32
    _assert_near(found.logits, expected.logits, dtype)
    # A loss changes by at most twice the change of a score.
    bound = 2 * ROUNDINGS**0.5 * torch.finfo(dtype).eps * float(expected.logits.abs().max())
    assert abs(float(requested(found.loss) - requested(expected.loss))) < bound


@HALVES
@torch.no_grad()
def test_padding_gives_no_nan(dtype: torch.dtype) -> None:
    """In float16, the 1e-12 that LayerNorm adds to the variance is 0, and rows of zeros must not be divided by it."""
    half, full = _pair(dtype)
    ids, mask = random_ids(B, T), torch.arange(T) >= torch.tensor([[0], [4], [8], [2]])
    found = half(ids, langs="en", attention_mask=mask, output_hidden_states=True)
    assert all(states.isfinite().all() for states in requested(found.hidden_states))
    assert found.logits.isfinite().all()
    _assert_near(found.logits[mask], full(ids, langs="en", attention_mask=mask).logits[mask], dtype)


@HALVES
@pytest.mark.parametrize("lengths", [None, torch.tensor([5, 2, 3, 1])], ids=["uniform", "ragged"])
@torch.no_grad()
def test_cache(dtype: torch.dtype, lengths: Tensor | None) -> None:
    half, full = _pair(dtype)
    prompt, following = random_ids(B, 5), random_ids(B, 1, seed=9)
    logits = []
    for model in (half, full):
        cache = model.new_cache(B)
        assert cache.keys.dtype == model.dtype
        model(prompt, langs="en", lengths=lengths, cache=cache)
        logits.append(model(following, langs="en", cache=cache).logits)
    _assert_near(logits[0], logits[1], dtype)


@HALVES
def test_autocast_trains(dtype: torch.dtype) -> None:
    """Weights and gradients stay in float32; the error of a gradient is at most a tenth of the largest gradient."""
    if dtype == torch.float16 and not torch.amp.is_autocast_available("cpu"):
        pytest.skip("this torch has no autocast on the CPU")
    model, ids = small_model(seed=3), random_ids(B, T)
    names, parameters = zip(*model.named_parameters(), strict=True)
    expected = torch.autograd.grad(requested(model(ids, langs="en", labels=ids).loss), parameters)
    with torch.autocast("cpu", dtype=dtype):
        loss = requested(model(ids, langs="en", labels=ids).loss)
    assert loss.dtype == torch.float32
    found = torch.autograd.grad(loss, parameters)
    largest = max(float(gradient.abs().max()) for gradient in expected)
    for name, here, there in zip(names, found, expected, strict=True):
        assert here.dtype == torch.float32, name
        assert (here - there).abs().max() < 0.1 * largest, name


@HALVES
@torch.no_grad()
def test_the_bound_is_not_empty(dtype: torch.dtype) -> None:
    """Both types differ from float32; otherwise the tests above would compare a model with itself."""
    half, full = _pair(dtype)
    ids = random_ids(B, T)
    assert relative_error(half(ids, langs="en").logits, full(ids, langs="en").logits) > torch.finfo(dtype).eps / 8
