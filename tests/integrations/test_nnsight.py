"""Interventions by nnsight. Oracles: ``output_hidden_states``; a forward hook that does the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.model.small_models import random_ids, small_model

nnsight = pytest.importorskip("nnsight")
# The library and what it imports warn of their own affairs.
pytestmark = pytest.mark.filterwarnings("default")


@torch.no_grad()
def test_it_reads_and_replaces_the_output_of_a_layer() -> None:
    model, ids = small_model(seed=1), random_ids(2, 7)
    expected = model(ids, langs="en", output_hidden_states=True)
    traced = nnsight.NNsight(model)
    with traced.trace(ids, langs="en"):
        hidden = traced.transformer.layers[0].output[0].save()
        logits = traced.output.logits.save()
    assert torch.equal(hidden, expected.hidden_states[1])
    assert torch.equal(logits, expected.logits)

    with traced.trace(ids, langs="en"):
        traced.transformer.layers[0].output[0][:, 2] = 0
        logits = traced.output.logits.save()

    def remove(module: Any, inputs: Any, output: Any) -> Any:
        output[0][:, 2] = 0
        return output

    with model.transformer.layers[0].register_forward_hook(remove):
        by_hook = model(ids, langs="en").logits
    assert torch.equal(logits, by_hook)
    assert not torch.equal(logits, expected.logits)
