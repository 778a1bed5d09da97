"""Attribution by captum. Oracle: the axiom of completeness, by two forward passes of the model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.model.small_models import random_ids, small_model

captum = pytest.importorskip("captum.attr")
# The library and what it imports warn of their own affairs.
pytestmark = pytest.mark.filterwarnings("default")

STEPS = 100
COMPLETENESS = 1e-4
ROWS, TOKENS, TARGET = 2, 7, 20


def test_integrated_gradients_of_the_word_embeddings() -> None:
    model, ids = small_model(seed=1), random_ids(ROWS, TOKENS)
    baseline = torch.full_like(ids, model.config.unk_token_id)

    def score(input_ids: Tensor) -> Tensor:
        logits: Tensor = model(input_ids, langs="en").logits
        return logits[:, -1, TARGET]

    method = captum.LayerIntegratedGradients(score, model.transformer.embeddings.word)
    attributions = method.attribute(ids, baseline, n_steps=STEPS)
    assert attributions.shape == (ROWS, TOKENS, model.config.emb_dim)
    assert float(attributions.abs().sum()) > 1
    difference = (score(ids) - score(baseline)).detach()
    assert float((attributions.sum((1, 2)) - difference).abs().max()) < COMPLETENESS


def test_integrated_gradients_of_inputs_embeds() -> None:
    model, ids = small_model(seed=1), random_ids(ROWS, TOKENS)
    embeddings_BTD = model.transformer.embeddings.word(ids).detach()
    baseline_BTD = torch.zeros_like(embeddings_BTD)

    def score(inputs_embeds: Tensor) -> Tensor:
        logits: Tensor = model(inputs_embeds=inputs_embeds, langs="en").logits
        return logits[:, -1, TARGET]

    attributions = captum.IntegratedGradients(score).attribute(embeddings_BTD, baseline_BTD, n_steps=STEPS)
    difference = (score(embeddings_BTD) - score(baseline_BTD)).detach()
    assert float((attributions.sum((1, 2)) - difference).abs().max()) < COMPLETENESS


def test_activations_and_gradients_of_a_layer() -> None:
    """Completeness holds for the output of a layer as well."""
    model, ids = small_model(seed=1), random_ids(ROWS, TOKENS)
    layer, baseline = model.transformer.layers[0], torch.full_like(ids, model.config.unk_token_id)

    def score(input_ids: Tensor) -> Tensor:
        logits: Tensor = model(input_ids, langs="en").logits
        return logits[:, -1, TARGET]

    activations = captum.LayerActivation(score, layer).attribute(ids)
    states = model(ids, langs="en", output_hidden_states=True).hidden_states
    assert states is not None
    assert torch.equal(activations, states[1])
    attributions = captum.LayerIntegratedGradients(score, layer).attribute(ids, baseline, n_steps=4 * STEPS)
    difference = (score(ids) - score(baseline)).detach()
    assert float((attributions.sum((1, 2)) - difference).abs().max()) < 10 * COMPLETENESS
