"""Small random models of every architecture: logits, hidden states and attention weights.

Oracle: ``XLMWithLMHeadModel`` of the installed ``transformers`` 5.x with the same weights, run here and now. The bound
is 2e-6 of the largest value, 17 float32 roundings, because sums may be in another order.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model.small_models import random_ids, relative_error, requested, small_model
from tests.model.transformers_peer import peer_of
from xlm.model.initialisation import sinusoidal_positions
from xlm.model.lm import XLMWithLMHeadModel

BOUND = 2e-6
B, T = 3, 7
LENGTHS = torch.tensor([7, 4, 1])
RIGHT = (torch.arange(T) < LENGTHS[:, None]).long()
LEFT = RIGHT.flip(1)

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "relu": {"gelu_activation": False},
    "sinusoidal": {"sinusoidal_embeddings": True},
    "one language": {"n_langs": 1},
    "three languages": {"n_langs": 3},
    "no language embeddings": {"use_lang_emb": False},
    "untied": {"share_inout_emb": False},
    "one language, relu, sinusoidal, untied": {
        "n_langs": 1,
        "gelu_activation": False,
        "sinusoidal_embeddings": True,
        "share_inout_emb": False,
    },
}
INPUTS: dict[str, dict[str, Tensor]] = {
    "plain": {},
    "lengths": {"lengths": LENGTHS},
    "right padding": {"attention_mask": RIGHT},
    "positions": {"position_ids": torch.randint(0, 16, (B, T), generator=torch.Generator().manual_seed(3))},
}


@functools.cache
def _pair(architecture: str, causal: bool) -> tuple[XLMWithLMHeadModel, Any]:
    changes = {"causal": causal, **ARCHITECTURES[architecture]}
    ours = small_model(seed=len(architecture), **changes)
    return ours, peer_of(ours)


def _langs(model: XLMWithLMHeadModel) -> Tensor:
    return torch.randint(0, model.config.n_langs, (B, T), generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def _assert_equal(ours: XLMWithLMHeadModel, theirs: Any, ids: Tensor, valid: Tensor, **inputs: Any) -> None:
    """Compare all results of both models at the positions that are not padding."""
    found = ours(ids, **inputs, output_hidden_states=True, output_attentions=True)
    fused = ours(ids, **inputs)
    expected = theirs(ids, **inputs, output_hidden_states=True, output_attentions=True)
    assert relative_error(found.logits[valid], expected.logits[valid]) < BOUND
    assert relative_error(fused.logits[valid], expected.logits[valid]) < BOUND
    assert len(requested(found.hidden_states)) == len(requested(expected.hidden_states)) == ours.config.n_layers + 1
    for here, there in zip(requested(found.hidden_states), requested(expected.hidden_states), strict=True):
        assert relative_error(here[valid], there[valid]) < BOUND
    assert len(requested(found.attentions)) == len(requested(expected.attentions)) == ours.config.n_layers
    for here, there in zip(requested(found.attentions), requested(expected.attentions), strict=True):
        assert relative_error(here.transpose(1, 2)[valid], there.transpose(1, 2)[valid]) < BOUND


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equal(architecture: str, causal: bool, inputs: str) -> None:
    ours, theirs = _pair(architecture, causal)
    valid = RIGHT.bool() if inputs in ("lengths", "right padding") else torch.ones(B, T, dtype=torch.bool)
    _assert_equal(ours, theirs, random_ids(B, T, low=3), valid, langs=_langs(ours), **INPUTS[inputs])


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
def test_equal_where_only_pad_says_what_is_padding(causal: bool) -> None:
    ours, theirs = _pair("plain", causal)
    ids = random_ids(B, T).masked_fill(RIGHT == 0, ours.config.pad_token_id)
    _assert_equal(ours, theirs, ids, RIGHT.bool(), langs=_langs(ours))


@pytest.mark.filterwarnings("ignore:this model has language embeddings")
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
def test_equal_without_langs(causal: bool) -> None:
    ours, theirs = _pair("plain", causal)
    _assert_equal(ours, theirs, random_ids(B, T), torch.ones(B, T, dtype=torch.bool))


@pytest.mark.parametrize("tokens", [1, 16])
def test_equal_on_one_token_and_on_the_longest_input(tokens: int) -> None:
    ours, theirs = _pair("plain", True)
    ids = random_ids(B, tokens)
    _assert_equal(ours, theirs, ids, torch.ones_like(ids, dtype=torch.bool), langs=torch.ones_like(ids))


def test_equal_with_padding_on_the_left_bidirectional() -> None:
    """In transformers, padding takes up positions, so the positions are passed explicitly."""
    ours, theirs = _pair("plain", False)
    positions = torch.arange(T).expand(B, T)
    _assert_equal(
        ours, theirs, random_ids(B, T), LEFT.bool(), langs=_langs(ours), attention_mask=LEFT, position_ids=positions
    )


@torch.no_grad()
def test_padding_on_the_left_of_a_causal_model_is_ignored_though_transformers_looks_at_it() -> None:
    """In transformers, the causal mask ignores padding, and padding takes up positions; single rows are correct."""
    ours, theirs = _pair("plain", True)
    ids, langs = random_ids(B, T), _langs(ours)
    found = ours(ids, langs=langs, attention_mask=LEFT).logits
    as_batch = theirs(ids, langs=langs, attention_mask=LEFT).logits
    for row, length in enumerate(LENGTHS.tolist()):
        real = slice(T - length, T)
        alone = theirs(ids[row : row + 1, real], langs=langs[row : row + 1, real]).logits[0]
        assert relative_error(found[row, real], alone) < BOUND
        if length < T:
            assert relative_error(as_batch[row, real], alone) > 100 * BOUND


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
def test_adaptive_softmax(causal: bool) -> None:
    """The forward of transformers fails on a batch with this head, so its head is called on one row at a time."""
    ours = small_model(asm=True, asm_cutoffs=(20, 40), asm_div_value=2.0, causal=causal)
    theirs = peer_of(ours)
    ids, langs = random_ids(B, T), _langs(ours)
    hidden = theirs.transformer(ids, langs=langs).last_hidden_state
    expected = torch.stack([theirs.pred_layer(row)[0] for row in hidden])
    assert relative_error(ours(ids, langs=langs).logits, expected) < BOUND


def test_sinusoidal_positions_are_theirs() -> None:
    """The other tests copy the weights, so they would not detect a wrong table."""
    modeling = pytest.importorskip("transformers.models.xlm.modeling_xlm")
    for positions, width in ((512, 1024), (7, 24), (3, 2)):
        expected = modeling.create_sinusoidal_embeddings(positions, width, out=torch.empty(positions, width))
        # Sines and cosines of two libraries in float64, each rounded once, differ at most in the last bit.
        assert (sinusoidal_positions(positions, width) - expected).abs().max() <= 2**-24
