"""``reset_parameters`` of every module, and models that are built on the meta device.

Oracle: a new model with the same seed; standard deviations of many draws.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.model.small_models import random_ids, small_config, small_model
from xlm import XLMEncoderDecoderModel, XLMModel, XLMWithLMHeadModel
from xlm.model.initialisation import reset_modules

KINDS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"share_inout_emb": False},
    "sinusoidal": {"sinusoidal_embeddings": True},
    "monolingual": {"n_langs": 1},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cls", [XLMModel, XLMWithLMHeadModel])
def test_a_model_from_the_meta_device_is_a_new_model(cls: Any, kind: str) -> None:
    config = small_config(**KINDS[kind])
    torch.manual_seed(7)
    expected = cls(config)
    with torch.device("meta"):
        model = cls(config)
    assert all(parameter.is_meta for parameter in model.parameters())
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    torch.manual_seed(7)
    model.reset_parameters()
    for (name, found), weight in zip(model.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.equal(found, weight), name
    for parameter, other in zip(model.parameters(), expected.parameters(), strict=True):
        assert parameter.requires_grad == other.requires_grad
    ids = random_ids(2, 5)
    with torch.no_grad():
        assert torch.equal(model.eval()(ids, langs=0)[0], expected.eval()(ids, langs=0)[0])


def _models() -> dict[str, nn.Module]:
    return {
        "language model": small_model(),
        "adaptive": small_model(asm=True, asm_cutoffs=(20, 40)),
        "sinusoidal": small_model(sinusoidal_embeddings=True),
        "translation": XLMEncoderDecoderModel(small_config()),
    }


@pytest.mark.parametrize("kind", ["language model", "adaptive", "sinusoidal", "translation"])
def test_every_module_resets_all_that_is_inside(kind: str) -> None:
    """Also in the order of ``modules()``, in which recipes call the method: no module spoils its parent's weights."""
    model = _models()[kind]
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList | nn.Sequential):
            continue
        assert callable(getattr(module, "reset_parameters", None)), name
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.fill_(float("nan"))
        module.reset_parameters()
        assert all(parameter.isfinite().all() for parameter in module.parameters()), name
    for module in model.modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            module.reset_parameters()  # type: ignore[operator]
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.weight.requires_grad:
            assert 0.7 < float(module.weight.detach().std()) * 24**0.5 < 1.3
            if module.padding_idx is not None:
                assert not module.weight[module.padding_idx].any()


def test_the_last_layers_can_be_drawn_again() -> None:
    model, before = small_model(), small_model().state_dict()
    model.transformer.layers[-1].reset_parameters()
    changed = {name.partition(".attention")[0] for name, w in model.state_dict().items() if not w.equal(before[name])}
    assert all(name.startswith("transformer.layers.1") for name in changed)
    assert changed


def test_modules_of_a_subclass_are_reset_too() -> None:
    class Classifier(XLMModel):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.classify = nn.Sequential(nn.Linear(config.emb_dim, 2), nn.Tanh())

    model = Classifier(small_config())
    with torch.no_grad():
        model.classify[0].weight.fill_(float("nan"))  # type: ignore[operator]
    model.reset_parameters()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    reset_modules([nn.Tanh()])  # a module without weights
