"""Layers that the backward pass computes again. Oracle: the same model without it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.model.small_models import random_ids, small_model
from xlm import XLMWithLMHeadModel
from xlm.errors import InputError


def gradients(model: XLMWithLMHeadModel) -> list[torch.Tensor]:
    ids = random_ids(3, 6)
    torch.manual_seed(0)  # dropout
    model.zero_grad()
    loss = model(ids, langs="en", labels=ids).loss
    assert loss is not None
    loss.backward()  # type: ignore[no-untyped-call]
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("every", [1, 2])
def test_gradients_are_the_same_and_the_layers_run_again(every: int) -> None:
    model, runs = small_model(n_layers=3, dropout=0.3, attention_dropout=0.2).train(), [0, 0, 0]

    def count(number: int) -> Any:
        def hook(*_: object) -> None:
            runs[number] += 1

        return hook

    expected = gradients(model)
    model.activation_checkpointing_enable(every_n_layers=every)
    assert model.is_gradient_checkpointing
    for number, layer in enumerate(model.transformer.layers):
        layer.register_forward_pre_hook(count(number))
    assert all(map(torch.equal, gradients(model), expected))
    assert runs == [2, 2 if every == 1 else 1, 2]
    with torch.no_grad():
        model(random_ids(1, 3), langs="en")
    assert runs == [3, 3 if every == 1 else 2, 3]
    model.activation_checkpointing_disable()
    gradients(model)
    assert runs == [4, 4 if every == 1 else 3, 4]


@pytest.mark.parametrize(
    "options",
    [{"offload": True}, {"every_n_layers": 0}, {"activation_checkpointing_kwargs": {"use_reentrant": True}}],
)
def test_what_is_not_offered_is_refused(options: dict[str, Any]) -> None:
    model = small_model()
    with pytest.raises(InputError, match=next(iter(options))):
        model.activation_checkpointing_enable(**options)
    assert not model.is_gradient_checkpointing
