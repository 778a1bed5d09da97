"""Models with a custom ``forward``. Oracle: methods that would not call it refuse the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.model.small_models import small_config, small_model
from xlm.errors import InputError
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.outputs import XLMOutput

IDS = torch.tensor([[1, 20, 21]])


class Flattened(XLMWithLMHeadModel):
    def forward(self, *arguments: Any, **options: Any) -> XLMOutput:  # type: ignore[override]
        output = super().forward(*arguments, **options)
        return XLMOutput(logits=output.logits * 0.1)


def overridden() -> XLMWithLMHeadModel:
    return Flattened(small_config()).eval()


def hooked() -> XLMWithLMHeadModel:
    model = small_model()
    model.register_forward_hook(lambda module, arguments, output: XLMOutput(logits=output.logits * 0.1))
    return model


def patched() -> XLMWithLMHeadModel:
    model = small_model()
    forward = model.forward
    model.forward = lambda *arguments, **options: forward(*arguments, **options)  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize("make", [overridden, hooked, patched])
def test_generate_refuses_a_forward_that_it_would_not_call(make: Callable[[], XLMWithLMHeadModel]) -> None:
    model = make()
    for method in (model.generate, model.continuations, model.stream):
        with pytest.raises(InputError, match="would bypass the model's custom forward or hooks"):
            method(IDS, langs=1, max_new_tokens=2)


def test_what_the_remedy_names_takes_effect() -> None:
    class Suppressing(XLMWithLMHeadModel):
        def logits(self, hidden: torch.Tensor) -> torch.Tensor:
            scores = super().logits(hidden)
            return scores.index_fill(-1, torch.tensor([30]), 1e4)

    model = Suppressing(small_config()).eval()
    assert model.generate(IDS, langs=1, max_new_tokens=2)[0, 3:].tolist() == [30, 30]
