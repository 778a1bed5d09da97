"""Packing refuses models with hooks, adapters or foreign layers, whose effect would be lost.

Oracle: every change that moves the logits of the model is refused, with the name of the changed module.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from tests.model.small_models import random_ids, relative_error, small_model
from xlm.errors import InputError
from xlm.model.attention import Attention
from xlm.model.head import LinearHead, target_logprobs
from xlm.model.lm import XLMWithLMHeadModel
from xlm.model.transformer import Layer, Transformer

V, D = 61, 24
LAYER = "transformer.layers.1"
QUERY = f"{LAYER}.attention.query"


class Lora(nn.Module):
    """An adapter as peft injects it: it replaces a layer and contains it."""

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora_A, self.lora_B = nn.Linear(D, 2, bias=False), nn.Linear(2, D, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base_layer(x) + 10 * self.lora_B(self.lora_A(x))
        return out


class OtherLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class OtherLogits(XLMWithLMHeadModel):
    def logits(self, hidden: Tensor) -> Tensor:
        return super().logits(hidden).flip(-1)


class OtherTransformer(Transformer):
    def forward(self, inputs: Any, **options: Any) -> Any:
        return super().forward(dataclasses.replace(inputs, langs=None), **options)


class OtherLayer(Layer):
    def forward(self, x_BTD: Tensor, *args: Any, **options: Any) -> Any:
        return super().forward(x_BTD * 2, *args, **options)


class OtherAttention(Attention):
    def project(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query_BTD, key_BTD, value_BTD = super().project(x_BTD)
        return query_BTD, key_BTD, value_BTD * 2


class OtherHead(LinearHead):
    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden).flip(-1)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2


def doubled_output(module: nn.Module, args: object, output: Tensor) -> Tensor:
    return output * 2


def doubled_input(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (args[0] * 2,)


def _replace(path: str, make: Callable[[nn.Module], nn.Module]) -> Callable[[Any], None]:
    def change(model: nn.Module) -> None:
        model.set_submodule(path, make(model.get_submodule(path)))

    return change


def _of(kind: type[nn.Module]) -> Callable[[nn.Module], nn.Module]:
    """Return a function that changes the class of a module."""

    def changed(module: nn.Module) -> nn.Module:
        module.__class__ = kind
        return module

    return changed


def _at(path: str, change: Callable[[Any], object]) -> Callable[[Any], object]:
    return lambda model: change(model.get_submodule(path))


def _patch(name: str) -> Callable[[Any], None]:
    def change(module: Any) -> None:
        original = getattr(module, name)
        setattr(module, name, lambda x, *args, **options: original(x * 2, *args, **options))

    return change


def _prune(module: nn.Module) -> None:
    prune.l1_unstructured(module, "weight", 0.9)  # type: ignore[no-untyped-call]


CHANGES: dict[str, tuple[str, str, Callable[[Any], object]]] = {
    # name: where, part of what is found, change to the model
    "lora": (QUERY, "test_plain_layers.Lora in place of Linear", _replace(QUERY, Lora)),
    "lora below": (
        f"{LAYER}.ffn.up",
        "Sequential",
        _replace(f"{LAYER}.ffn.up", lambda up: nn.Sequential(Doubled(), up)),
    ),
    "another linear layer": (QUERY, "OtherLinear, which overrides forward", _replace(QUERY, _of(OtherLinear))),
    "hook": (
        QUERY,
        "Linear with forward hooks (doubled_output)",
        _at(QUERY, lambda m: m.register_forward_hook(doubled_output)),
    ),
    "pre-hook": (QUERY, "hooks (doubled_input)", _at(QUERY, lambda m: m.register_forward_pre_hook(doubled_input))),
    "hook on the embeddings": (
        "transformer.embeddings",
        "doubled_output",
        _at("transformer.embeddings", lambda m: m.register_forward_hook(doubled_output)),
    ),
    "hook on a norm": (
        f"{LAYER}.ffn_norm",
        "doubled_output",
        _at(f"{LAYER}.ffn_norm", lambda m: m.register_forward_hook(doubled_output)),
    ),
    "hook on the head": ("head", "doubled_output", _at("head", lambda m: m.register_forward_hook(doubled_output))),
    "parametrization": (
        QUERY,
        "ParametrizedLinear with the weights ['bias']",
        _at(QUERY, lambda m: parametrize.register_parametrization(m, "weight", Doubled())),
    ),
    "spectral norm": (QUERY, "ParametrizedLinear with the weights", _at(QUERY, parametrizations.spectral_norm)),
    "pruning": (QUERY, "forward hooks (L1Unstructured)", _at(QUERY, _prune)),
    "another transformer": ("transformer", "overrides forward", _replace("transformer", _of(OtherTransformer))),
    "another layer": (LAYER, "OtherLayer, which overrides forward", _replace(LAYER, _of(OtherLayer))),
    "another attention": (
        f"{LAYER}.attention",
        "overrides project",
        _replace(f"{LAYER}.attention", _of(OtherAttention)),
    ),
    "another head": ("head", "OtherHead, which overrides forward", _replace("head", _of(OtherHead))),
    "a head of torch": ("head", "Linear in place of LinearHead", _replace("head", lambda _: nn.Linear(D, V))),
    "other logits": ("OtherLogits", "which overrides logits", _of(OtherLogits)),
    "a patched layer": (LAYER, "its own forward", _at(LAYER, _patch("forward"))),
    "patched logits": ("XLMWithLMHeadModel", "its own logits", _patch("logits")),
    "no norm": (
        f"{LAYER}.ffn_norm",
        "Identity in place of LayerNorm",
        _replace(f"{LAYER}.ffn_norm", lambda _: nn.Identity()),
    ),
    "a module for the activation": (
        f"{LAYER}.ffn.activation",
        "an additional torch.nn.modules.activation.SiLU",
        _at(f"{LAYER}.ffn", lambda m: setattr(m, "activation", nn.SiLU())),
    ),
    "no bias": (
        QUERY,
        "the weights ['weight'] in place of ['weight', 'bias']",
        _replace(QUERY, lambda _: nn.Linear(D, D, bias=False)),
    ),
    "a layer less": (LAYER, "missing", _at("transformer.layers", lambda layers: layers.__delitem__(1))),
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_packing_refuses_what_it_would_leave_out(change: str) -> None:
    where, found, change_model = CHANGES[change]
    model, ids = small_model(seed=1), random_ids(2, 5)
    expected = model(ids, langs="en").logits
    change_model(model)
    assert relative_error(model(ids, langs="en").logits, expected) > 0.001
    with pytest.raises(InputError, match="merge_and_unload") as caught:
        model.for_inference()
    assert caught.value.where == where
    assert found in str(caught.value.found)


def test_packing_refuses_global_hooks() -> None:
    model = small_model()
    hook = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with pytest.raises(InputError, match="global forward hooks"):
            model.for_inference()
    finally:
        hook.remove()
    model.for_inference()


def test_several_are_named_in_one_error() -> None:
    model = small_model()
    for index in range(2):
        for name in ("query", "value", "output"):
            _replace(f"transformer.layers.{index}.attention.{name}", Lora)(model)
    with pytest.raises(InputError) as caught:
        model.for_inference()
    assert str(caught.value.found).count("Lora in place of Linear") == 4
    assert str(caught.value.found).endswith("and 2 more")


@torch.no_grad()
def test_adapters_of_peft_are_refused_until_they_are_merged() -> None:
    peft = pytest.importorskip("peft")
    model, ids = small_model(seed=1), random_ids(2, 5)
    plain = model(ids, langs="en").logits
    adapter = peft.LoraConfig(target_modules=["query", "value"], r=2, init_lora_weights=False)
    adapted = peft.get_peft_model(model.transformer, adapter).eval()
    expected = model(ids, langs="en").logits
    assert relative_error(expected, plain) > 0.001
    with pytest.raises(InputError, match="merge_and_unload") as caught:
        model.for_inference()
    assert "transformer.layers.0.attention.query" in str(caught.value.where)
    assert "peft.tuners.lora.layer.Linear in place of Linear" in str(caught.value.found)
    model.transformer = adapted.merge_and_unload()
    assert relative_error(model.for_inference()(ids, langs="en").logits, expected) < 1e-5


class Described(nn.Linear):
    """Adds a method and a description, without changing the computation."""

    def extra_repr(self) -> str:
        return "mine"

    def describe(self) -> str:
        return "mine"


class Helpful(XLMWithLMHeadModel):
    """Adds a method, without changing the computation."""

    def surprisal(self, ids: Tensor) -> Tensor:
        return -target_logprobs(self(ids, langs="en").logits[:, :-1], ids[:, 1:])


@torch.no_grad()
def test_packing_takes_subclasses_that_override_nothing_and_what_only_changes_weights() -> None:
    model, ids = small_model(seed=1), random_ids(2, 5)
    model.__class__ = Helpful
    _replace(QUERY, _of(Described))(model)
    _replace(f"{LAYER}.ffn.up", lambda _: nn.Linear(D, 50))(model)
    _replace(f"{LAYER}.ffn.down", lambda _: nn.Linear(50, D))(model)
    model.get_submodule(f"{LAYER}.ffn").activation = nn.functional.silu  # type: ignore[assignment]
    model.transformer.embeddings.word.max_norm = 1.0
    expected = model(ids, langs="en").logits
    assert relative_error(model.for_inference()(ids, langs="en").logits, expected) < 1e-5
