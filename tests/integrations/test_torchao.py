"""Quantisation by torchao. Oracle: a plain model with the weights that torchao rounded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.model.small_models import random_ids, relative_error, small_model

pytest.importorskip("torchao")
# The library and what it imports warn of their own affairs.
pytestmark = pytest.mark.filterwarnings("default")


@torch.no_grad()
def test_int8_weights() -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model, plain, ids = small_model(seed=1), small_model(seed=1), random_ids(2, 7)
    exact = plain(ids, langs="en").logits
    quantize_(model, Int8WeightOnlyConfig())
    layers = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert len(layers) == 6 * plain.config.n_layers
    for name in layers:
        rounded: Any = model.get_submodule(name).weight
        assert type(rounded) is not nn.Parameter
        plain.get_parameter(f"{name}.weight").copy_(rounded.dequantize())
    logits = model(ids, langs="en", labels=ids).logits
    assert relative_error(logits, plain(ids, langs="en").logits) < 1e-5
    assert 1e-4 < relative_error(logits, exact) < 0.05
