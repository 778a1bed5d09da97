"""The loss and the output object.

Oracle: the mean of negative log-probabilities, computed position by position; finite differences for a gradient.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model.small_models import random_ids, requested, small_model
from xlm.errors import InputError
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.outputs import XLMOutput

B, T = 3, 6
HEADS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"share_inout_emb": False},
    "adaptive": {"asm": True, "asm_cutoffs": (20, 40), "asm_div_value": 2.0},
}
each_head = pytest.mark.parametrize("head", HEADS)


def _by_hand(logits: Tensor, labels: Tensor, *, shift: int) -> float:
    """Return the loss of logits at t for the label at t + shift, in plain Python and float64."""
    total, counted = 0.0, 0
    for row in range(labels.shape[0]):
        for t in range(labels.shape[1] - shift):
            label = int(labels[row, t + shift])
            if label != -100:
                scores = logits[row, t].double()
                total += float(scores.logsumexp(0) - scores[label])
                counted += 1
    return total / counted


def _labels(ids: Tensor) -> Tensor:
    labels = ids.clone()
    labels[0, 2] = labels[1, 4:] = labels[2, 0] = -100
    return labels


@each_head
@torch.no_grad()
def test_causal_labels_are_shifted(head: str) -> None:
    model, ids = small_model(**HEADS[head]), random_ids(B, T, low=3)
    output = model(ids, langs="en", labels=ids)
    assert float(requested(output.loss)) == pytest.approx(_by_hand(output.logits, ids, shift=1), rel=1e-6)
    assert float(requested(output.loss)) != pytest.approx(_by_hand(output.logits, ids, shift=0), rel=1e-3)


@each_head
@torch.no_grad()
def test_bidirectional_labels_are_not_shifted(head: str) -> None:
    model, ids, labels = small_model(causal=False, **HEADS[head]), random_ids(B, T), random_ids(B, T, seed=4)
    output = model(ids, langs="en", labels=labels)
    assert float(requested(output.loss)) == pytest.approx(_by_hand(output.logits, labels, shift=0), rel=1e-6)
    assert float(requested(output.loss)) != pytest.approx(_by_hand(output.logits, labels, shift=1), rel=1e-3)


@each_head
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@torch.no_grad()
def test_minus_100_does_not_count(head: str, causal: bool) -> None:
    model, ids = small_model(causal=causal, **HEADS[head]), random_ids(B, T)
    output = model(ids, langs="en", labels=_labels(ids))
    assert float(requested(output.loss)) == pytest.approx(
        _by_hand(output.logits, _labels(ids), shift=int(causal)), rel=1e-6
    )
    assert float(requested(output.loss)) != pytest.approx(_by_hand(output.logits, ids, shift=int(causal)), rel=1e-4)


@torch.no_grad()
def test_the_first_label_of_a_causal_model_is_never_judged() -> None:
    model, ids = small_model(), random_ids(B, T)
    labels = ids.clone()
    labels[:, 0] = -100
    assert torch.equal(
        requested(model(ids, langs="en", labels=labels).loss), requested(model(ids, langs="en", labels=ids).loss)
    )


@torch.no_grad()
def test_labels_do_not_change_the_logits() -> None:
    model, ids = small_model(), random_ids(B, T)
    assert torch.equal(model(ids, langs="en", labels=ids).logits, model(ids, langs="en").logits)


@torch.no_grad()
def test_adaptive_logits_are_log_probabilities() -> None:
    logits = small_model(**HEADS["adaptive"])(random_ids(B, T), langs="en").logits
    assert logits.exp().sum(-1).sub(1).abs().max() < 1e-5


@each_head
def test_gradients_against_finite_differences(head: str) -> None:
    """Central differences in float64 with h = 1e-5 have errors of about h squared and 1e-16 / h, both about 1e-10."""
    model, ids = small_model(dtype=torch.float64, **HEADS[head]), random_ids(B, T)
    labels, step = _labels(ids), 1e-5
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(_loss(model, ids, labels), parameters)
    for name, parameter, gradient in zip(names, parameters, gradients, strict=True):
        place = int(gradient.abs().argmax())
        with torch.no_grad():
            value = parameter.view(-1)[place].clone()
            losses = []
            for moved in (value + step, value - step):
                parameter.view(-1)[place] = moved
                losses.append(_loss(model, ids, labels))
            parameter.view(-1)[place] = value
        slope = float(losses[0] - losses[1]) / (2 * step)
        assert float(gradient.view(-1)[place]) == pytest.approx(slope, rel=1e-5, abs=1e-8), name


def _loss(model: XLMWithLMHeadModel, ids: Tensor, labels: Tensor) -> Tensor:
    loss: Tensor = requested(model(ids, langs="en", labels=labels).loss)
    return loss


def test_the_embedding_of_pad_gets_no_gradient_through_the_input() -> None:
    model = small_model(share_inout_emb=False)
    ids = random_ids(B, T)
    ids[:, -2:] = model.config.pad_token_id
    words = model.transformer.embeddings.word.weight
    (gradient,) = torch.autograd.grad(_loss(model, ids, ids.masked_fill(ids == 2, -100)), words)
    assert gradient[2].abs().max() == 0
    assert gradient[ids[0, 0]].abs().max() > 0


@torch.no_grad()
def test_the_output_is_indexed_like_a_tuple_of_what_is_there() -> None:
    model, ids = small_model(), random_ids(B, T)
    plain = model(ids, langs="en")
    assert isinstance(plain, XLMOutput)
    assert plain[0] is plain.logits
    assert plain.to_tuple() == (plain.logits,)
    assert (plain.loss, plain.hidden_states, plain.attentions, plain.cache) == (None, None, None, None)
    full = model(ids, langs="en", labels=ids, output_hidden_states=True, output_attentions=True)
    loss, logits, hidden_states, attentions = full
    assert loss is full.loss
    assert logits is full.logits is full[1]
    assert hidden_states is full.hidden_states
    assert attentions is full[-1]
    with pytest.raises(IndexError):
        full[4]


@torch.no_grad()
def test_the_output_is_indexed_by_name_as_in_transformers() -> None:
    """Oracle: ``ModelOutput`` of transformers, which has no entries for ``None``."""
    model, ids = small_model(), random_ids(B, T)
    plain, full = model(ids, langs="en"), model(ids, langs="en", labels=ids, output_attentions=True)
    assert plain["logits"] is plain.logits
    assert (full["loss"], full["attentions"]) == (full.loss, full.attentions)
    assert (plain.keys(), full.keys()) == (("logits",), ("loss", "logits", "attentions"))
    assert dict(full) == {"loss": full.loss, "logits": full.logits, "attentions": full.attentions}
    assert ("loss" in plain, "loss" in full, full.loss in full) == (False, True, False)
    for name in ("loss", "cache", "logit", "to_tuple", ""):
        with pytest.raises(KeyError) as caught:
            plain[name]
        assert isinstance(caught.value, InputError)
        assert (caught.value.found, caught.value.expected) == (repr(name), "logits")


@torch.no_grad()
def test_numbers_and_slices_of_an_output_are_those_of_its_tuple() -> None:
    model, ids = small_model(), random_ids(B, T)
    full = model(ids, langs="en", labels=ids, output_attentions=True)
    assert (full[0], full[-1], full[True]) == (full.loss, full.attentions, full.logits)
    assert full[:2] == (full.loss, full.logits)
    assert full[1:][0] is full.logits
    for index in (3, -4, 10**30, 1.0, None, [0], torch.tensor([0, 1])):
        with pytest.raises(InputError, match="no such entry"):
            full[index]  # type: ignore[index]


@torch.no_grad()
def test_shapes_and_types() -> None:
    ids = random_ids(B, T)
    output = small_model()(ids, langs="en", labels=ids, output_hidden_states=True, output_attentions=True)
    assert (output.logits.shape, requested(output.loss).shape) == ((B, T, 61), ())
    assert [tuple(states.shape) for states in requested(output.hidden_states)] == [(B, T, 24)] * 3
    assert [tuple(weights.shape) for weights in requested(output.attentions)] == [(B, 3, T, T)] * 2
    assert output.logits.dtype == requested(output.loss).dtype == torch.float32
