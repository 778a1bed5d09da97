"""Low-rank adapters (LoRA) by peft: inserted into a model, saved beside it, and merged into its weights.

The model keeps its class. A linear layer becomes a layer of peft that holds the old one as ``base_layer``, and the
matrices of its adapter as ``lora_A`` and ``lora_B``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xlm._io.dependencies import needing
from xlm.checkpoint.tensors import empty_model
from xlm.errors import CheckpointError, ConfigError
from xlm.model.transformer import Transformer
from xlm.training.config import LoraSettings
from xlm.training.processes import TrainableModel

_ADAPTER = "default"


def add_adapters(model: TrainableModel, settings: LoraSettings) -> None:
    """Insert adapters into a model, and freeze everything else. They change no result before they are trained.

    Raises:
        ConfigError: The model has no layer of these names.
        DependencyError: peft is not installed.
    """
    with needing("peft is not installed", where="lora.rank", install="'xlm[lora]'"):
        from peft import LoraConfig, inject_adapter_in_model
    transformers = [module for module in model.modules() if isinstance(module, Transformer)]
    linear = {
        name.rpartition(".")[2]
        for transformer in transformers
        for name, layer in transformer.named_modules()
        if isinstance(layer, nn.Linear)
    }
    if unknown := [name for name in settings.targets if name not in linear]:
        raise ConfigError(
            "the model has no linear layer of this name",
            where="lora.targets",
            found=", ".join(unknown),
            expected=", ".join(sorted(linear)),
        )
    adapters = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
    )
    model.requires_grad_(False)
    for transformer in transformers:
        inject_adapter_in_model(adapters, transformer, adapter_name=_ADAPTER)


def adapter_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the matrices of all adapters, by their names in the model."""
    return {name: tensor for name, tensor in model.state_dict().items() if ".lora_" in name}


def load_adapters(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give the adapters of a model the matrices that ``adapter_weights`` returned.

    Raises:
        CheckpointError: The matrices belong to other adapters.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in adapter_weights(model).items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if found != expected:
        differing = sorted(name for name in expected | found if expected.get(name) != found.get(name))
        raise CheckpointError("the adapters belong to another model", where="adapters", found=", ".join(differing[:3]))
    model.load_state_dict(dict(weights), strict=False)


@torch.no_grad()
def without_adapters(model: TrainableModel, *, merge: bool) -> TrainableModel:
    """Return a model of plain layers from one with adapters.

    Args:
        model: The model, which stays as it is.
        merge: Whether to add the adapters to the weights. Otherwise, the result is the model that the adapters were
            inserted into, and shares its memory.
    """
    state = {name: tensor for name, tensor in model.state_dict().items() if ".lora_" not in name}
    if merge:
        for name, layer in _adapted_layers(model).items():
            weight = f"{name}.base_layer.weight"
            state[weight] = state[weight] + layer.get_delta_weight(_ADAPTER).to(state[weight].dtype)
    plain: TrainableModel = empty_model(model.config, type(model))
    plain.load_state_dict({name.replace(".base_layer.", "."): tensor for name, tensor in state.items()}, assign=True)
    plain.provenance = model.provenance
    return plain


def _adapted_layers(model: nn.Module) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
