"""``XLMModel``, the network without its head.

Oracle: the language model with the same weights.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.model.small_models import random_ids, requested, small_config, small_model
from xlm import XLMModel, XLMModelOutput, XLMWithLMHeadModel
from xlm.errors import ConfigError, InputError, XLMWarning

HEADS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"share_inout_emb": False},
    "adaptive": {"asm": True, "asm_cutoffs": (20, 40)},
}
LENGTHS = torch.tensor([6, 2, 4])


def body_of(model: XLMWithLMHeadModel) -> XLMModel:
    body = XLMModel(model.config)
    body.load_state_dict({name: w for name, w in model.state_dict().items() if name.startswith("transformer.")})
    return body.eval()


@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_the_hidden_states_of_the_language_model(head: str) -> None:
    model, ids = small_model(seed=1, **HEADS[head]), random_ids(3, 6)
    result = body_of(model)(ids, langs="en", lengths=LENGTHS, output_hidden_states=True, output_attentions=True)
    expected = model(ids, langs="en", lengths=LENGTHS, output_hidden_states=True, output_attentions=True)
    assert torch.equal(result.last_hidden_state, requested(expected.hidden_states)[-1])
    assert torch.equal(model.head(result.last_hidden_state), expected.logits)
    for name in ("hidden_states", "attentions"):
        assert all(torch.equal(a, b) for a, b in zip(result[name], expected[name], strict=True))


@torch.no_grad()
def test_with_a_cache() -> None:
    body, ids = body_of(small_model(seed=1)), random_ids(2, 6)
    whole = body(ids, langs="en").last_hidden_state
    cache = body.new_cache(2)
    for part in (ids[:, :3], ids[:, 3:]):
        output = body(part, langs="en", cache=cache)
    assert output.cache is cache
    torch.testing.assert_close(output.last_hidden_state, whole[:, 3:])


@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_it_opens_the_directory_of_a_language_model(head: str, tmp_path: Path) -> None:
    model, ids = small_model(seed=1, **HEADS[head]), random_ids(2, 5)
    model.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        body = XLMModel.from_pretrained(tmp_path)
    assert type(body) is XLMModel
    assert not body.training
    assert torch.equal(body(ids, langs="en").last_hidden_state, model.hidden(ids, langs="en"))
    half = XLMModel.from_pretrained(tmp_path, dtype="bfloat16", causal=False)
    assert (half.dtype, half.config.causal, half.transformer.causal) == (torch.bfloat16, False, False)


class Classifier(XLMModel):
    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.classify = nn.Linear(config.emb_dim, 2)


def test_a_subclass_adds_weights_of_its_own(tmp_path: Path) -> None:
    small_model(seed=1).save_pretrained(tmp_path)
    with pytest.warns(XLMWarning, match=r"lacks classify\.bias, classify\.weight"):
        model = Classifier.from_pretrained(tmp_path)
    assert type(model) is Classifier
    assert not model.classify.weight.is_meta


def test_every_parameter_has_a_gradient() -> None:
    """Inside another module, no parameter is unused, which DDP would refuse."""
    body = XLMModel(small_config()).eval()
    torch.autograd.backward(body(random_ids(2, 5), langs="en").last_hidden_state.square().sum())
    assert all(parameter.grad is not None for parameter in body.parameters())


def test_hooks_fire() -> None:
    body, shapes = XLMModel(small_config()), list[torch.Size]()
    body.register_forward_hook(lambda module, inputs, output: shapes.append(output.last_hidden_state.shape))
    nn.ModuleDict({"body": body})["body"](random_ids(2, 5), langs="en")
    assert shapes == [(2, 5, 24)]


@torch.no_grad()
def test_copies_are_equal_and_separate() -> None:
    body, ids = body_of(small_model(seed=1)), random_ids(2, 5)
    expected = body(ids, langs="en").last_hidden_state
    for other in (copy.deepcopy(body), pickle.loads(pickle.dumps(body))):
        assert torch.equal(other(ids, langs="en").last_hidden_state, expected)
        other.transformer.embeddings.word.weight.mul_(2)
    assert torch.equal(body(ids, langs="en").last_hidden_state, expected)


@torch.no_grad()
def test_its_outputs_are_indexed_by_name_and_as_a_tuple() -> None:
    output = body_of(small_model())(random_ids(2, 5), langs="en", output_hidden_states=True)
    assert isinstance(output, XLMModelOutput)
    assert output.keys() == ("last_hidden_state", "hidden_states")
    assert output[0] is output["last_hidden_state"] is output.last_hidden_state
    with pytest.raises(InputError) as caught:
        output["logits"]
    assert (caught.value.where, caught.value.expected) == ("XLMModelOutput", "last_hidden_state, hidden_states")


def test_wrong_inputs_and_a_missing_language() -> None:
    body = XLMModel(small_config())
    with pytest.raises(InputError, match="out of range"):
        body(torch.tensor([[61]]), langs="en")
    with pytest.raises(InputError, match="output_attentions"):
        body(random_ids(2, 5), langs="en", output_attentions="yes")  # type: ignore[call-overload]
    with pytest.warns(XLMWarning, match="called without langs") as caught:
        body(random_ids(2, 5))
    assert caught[0].filename == __file__
    with pytest.raises(ConfigError, match="cannot be replaced") as error:
        body.config = small_config(dropout=0.5)
    assert "XLMModel(model.config.replace(...))" in str(error.value)


def test_new_weights_are_those_of_the_language_model() -> None:
    """The seed is the same; an adaptive head is excluded, since its initialisation draws numbers in between."""
    weights: list[dict[str, Tensor]] = []
    for kind in (XLMModel, XLMWithLMHeadModel):
        torch.manual_seed(0)
        weights.append(kind(small_config()).state_dict())
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
