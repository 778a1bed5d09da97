"""The model as an ``nn.Module``: copied, pickled, moved, built on the meta device, compiled, saved as a state dict.

Oracle: the logits of the original model.
"""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from tests.model.small_models import random_ids, relative_error, requested, small_config, small_model
from xlm.model.head import LinearHead
from xlm.model.inputs import prepare_inputs
from xlm.model.lm import XLMWithLMHeadModel

HEADS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"share_inout_emb": False},
    "adaptive": {"asm": True, "asm_cutoffs": (20, 40)},
    "sinusoidal, relu": {"sinusoidal_embeddings": True, "gelu_activation": False},
}
each_kind = pytest.mark.parametrize("kind", HEADS)


def _torch_saved(model: XLMWithLMHeadModel) -> XLMWithLMHeadModel:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded: XLMWithLMHeadModel = torch.load(file, weights_only=False)
    return loaded


@each_kind
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), _torch_saved])
@torch.no_grad()
def test_copies_are_equal_and_separate(kind: str, copied: Any) -> None:
    model, ids = small_model(**HEADS[kind]), random_ids(2, 6)
    expected = model(ids, langs="en").logits
    other = copied(model)
    assert other.config == model.config
    assert torch.equal(other(ids, langs="en").logits, expected)
    other.transformer.embeddings.word.weight.mul_(2)
    assert not torch.equal(other(ids, langs="en").logits, expected)
    assert torch.equal(model(ids, langs="en").logits, expected)


@each_kind
@torch.no_grad()
def test_a_state_dict_holds_everything_once(kind: str) -> None:
    model, other = small_model(seed=1, **HEADS[kind]), small_model(seed=2, **HEADS[kind])
    weights = model.state_dict()
    assert len({tensor.data_ptr() for tensor in weights.values()}) == len(weights)
    assert sum(tensor.numel() for tensor in weights.values()) == sum(p.numel() for p in model.parameters())
    other.load_state_dict(weights)
    ids = random_ids(2, 6)
    assert torch.equal(other(ids, langs="en").logits, model(ids, langs="en").logits)


@each_kind
@torch.no_grad()
def test_built_on_the_meta_device_then_given_weights(kind: str) -> None:
    model, ids = small_model(**HEADS[kind]), random_ids(2, 6)
    with torch.device("meta"):
        empty = XLMWithLMHeadModel(small_config(**HEADS[kind]))
    assert {tensor.device.type for tensor in empty.state_dict().values()} == {"meta"}
    empty.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(empty.eval()(ids, langs="en").logits, model(ids, langs="en").logits)
    assert (empty.device, empty.dtype) == (torch.device("cpu"), torch.float32)


@torch.no_grad()
def test_new_weights_are_drawn_as_the_original_draws_them() -> None:
    """Compare standard deviations of 30,000 to 120,000 draws, whose statistical error is below 1%."""
    torch.manual_seed(0)
    model = XLMWithLMHeadModel(small_config(vocab_size=500, emb_dim=240, max_position_embeddings=500))
    embeddings, bound = model.transformer.embeddings, 240**-0.5
    for table in (embeddings.word.weight[3:], embeddings.position.weight):
        assert float(table.std()) == pytest.approx(bound, rel=0.02)
    assert embeddings.word.weight[2].abs().max() == 0
    for linear in (module for module in model.modules() if isinstance(module, nn.Linear)):
        assert linear.weight.abs().max() <= linear.in_features**-0.5
        assert float(linear.weight.std()) == pytest.approx((3 * linear.in_features) ** -0.5, rel=0.02)
    assert isinstance(model.head, LinearHead)
    assert 0.9 * bound < model.head.bias.abs().max() <= bound
    narrow = XLMWithLMHeadModel(small_config(vocab_size=500, emb_dim=240, embed_init_std=0.02))
    assert float(narrow.transformer.embeddings.word.weight[3:].std()) == pytest.approx(0.02, rel=0.02)


def test_only_sinusoidal_positions_are_not_trained() -> None:
    frozen = [name for name, p in small_model(sinusoidal_embeddings=True).named_parameters() if not p.requires_grad]
    assert frozen == ["transformer.embeddings.position.weight"]
    assert all(p.requires_grad for p in small_model().parameters())


@pytest.mark.parametrize("part", ["", ".attention"])
@torch.no_grad()
def test_a_hook_returns_the_whole_output_or_its_first_item(part: str) -> None:
    model, ids = small_model(), random_ids(3, 5)  # three rows, which are not the three items of an output
    module = model.get_submodule(f"transformer.layers.0{part}")
    plain = model(ids, langs="en").logits
    with module.register_forward_hook(lambda module, inputs, output: (output[0] * 2, *output[1:])):
        expected = model(ids, langs="en")
        assert len(requested(model(ids, langs="en", output_attentions=True).attentions)) == 2
    with module.register_forward_hook(lambda module, inputs, output: output[0] * 2):
        assert torch.equal(model(ids, langs="en").logits, expected.logits)
    assert not torch.equal(expected.logits, plain)


@torch.no_grad()
def test_compiled_equals_eager_at_changing_lengths() -> None:
    """The backend only traces, which is enough to find mistakes in this library, and builds nothing."""
    model = small_model()
    compiled = torch.compile(model, backend="eager")
    for tokens in (7, 5, 12):
        ids = random_ids(3, tokens)
        langs = torch.ones_like(ids)
        expected = model(ids, langs=langs, labels=ids)
        found = compiled(ids, langs=langs, labels=ids)
        assert relative_error(found.logits, expected.logits) < 2e-6
        assert relative_error(requested(found.loss), requested(expected.loss)) < 2e-6


@torch.no_grad()
def test_behind_the_checks_of_its_inputs_the_transformer_is_one_graph() -> None:
    model, ids = small_model(), random_ids(3, 7)
    inputs = prepare_inputs(model.config, ids, langs=torch.ones_like(ids))
    compiled = torch.compile(model.transformer, backend="eager", fullgraph=True)
    assert relative_error(compiled(inputs).hidden, model.transformer(inputs).hidden) < 2e-6
