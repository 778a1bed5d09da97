"""The ``Accelerator`` of accelerate with the model as it is, and its offloading of weights. Oracle: a plain loop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.integrations.plain_loop import (
    BOUND,
    collate,
    examples,
    new_loader,
    new_model,
    new_optimiser,
    train,
    weights_differ,
)
from xlm.errors import InputError

accelerate = pytest.importorskip("accelerate")
# The library and what it imports warn of their own affairs.
pytestmark = pytest.mark.filterwarnings("default")


def test_a_loop_equals_a_plain_one(tmp_path: Path) -> None:
    ours, expected = new_model(), new_model()
    losses = train(expected, new_loader())
    accelerator = accelerate.Accelerator(cpu=True)
    model, optimiser, loader = accelerator.prepare(ours, new_optimiser(ours), new_loader())
    found = []
    for batch in loader:
        loss = model(**batch).loss
        accelerator.backward(loss)
        optimiser.step()
        optimiser.zero_grad()
        found.append(loss.item())
    assert found == pytest.approx(losses, rel=BOUND)
    assert weights_differ(accelerator.unwrap_model(model), expected) < BOUND
    accelerator.save_state(str(tmp_path / "state"))
    with torch.no_grad():
        ours.transformer.embeddings.word.weight.zero_()
    accelerator.load_state(str(tmp_path / "state"))
    assert weights_differ(ours, expected) < BOUND
    accelerator.save_model(model, str(tmp_path / "model"))
    again = new_model()
    again.load_state_dict(load_file(tmp_path / "model" / "model.safetensors"))
    assert weights_differ(again, ours) == 0


@torch.no_grad()
def test_layers_can_be_offloaded_and_a_tied_head_cannot() -> None:
    batch, plain = collate(examples(4)), new_model().eval()
    model = new_model().eval()
    accelerate.cpu_offload(model.transformer.layers, execution_device=torch.device("cpu"))
    assert next(model.transformer.layers.parameters()).is_meta
    assert torch.equal(model(**batch).logits, plain(**batch).logits)
    model = accelerate.cpu_offload(new_model().eval(), execution_device=torch.device("cpu"))
    with pytest.raises(InputError, match="offload only") as caught:
        model(**batch)
    assert "embeddings.word" in str(caught.value)
