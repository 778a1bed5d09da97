"""Interventions by nnsight. Oracles: ``output_hidden_states``; a forward hook that does the same.

Importing nnsight gives every object of the process a method ``save``, which breaks the export to ONNX. So it is
imported in a process of its own.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.skipif(importlib.util.find_spec("nnsight") is None, reason="nnsight is not installed")

PROGRAM = """
import nnsight
import torch

from tests.model.small_models import random_ids, small_model

torch.set_grad_enabled(False)
model, ids = small_model(seed=1), random_ids(2, 7)
expected = model(ids, langs="en", output_hidden_states=True)
traced = nnsight.NNsight(model)
with traced.trace(ids, langs="en"):
    hidden = nnsight.save(traced.transformer.layers[0].output[0])
    logits = nnsight.save(traced.output.logits)
assert torch.equal(hidden, expected.hidden_states[1])
assert torch.equal(logits, expected.logits)

with traced.trace(ids, langs="en"):
    traced.transformer.layers[0].output[0][:, 2] = 0
    logits = nnsight.save(traced.output.logits)

def remove(module, inputs, output):
    output[0][:, 2] = 0
    return output

with model.transformer.layers[0].register_forward_hook(remove):
    by_hook = model(ids, langs="en").logits
assert torch.equal(logits, by_hook)
assert not torch.equal(logits, expected.logits)
print("equal")
"""


def test_it_reads_and_replaces_the_output_of_a_layer() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "equal\n", done.stderr
