"""Open checkpoints by name or path, and load models from them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from xlm.checkpoint.checkpoint import Checkpoint, Provenance
from xlm.checkpoint.hf_config import read_config
from xlm.checkpoint.hf_weights import read_weights
from xlm.checkpoint.hub import MODEL, HubOptions
from xlm.checkpoint.original import read_original
from xlm.checkpoint.resolve import find_model
from xlm.checkpoint.state_dict_map import TRANSFORMERS
from xlm.checkpoint.tensors import empty_model, match_tensors
from xlm.errors import ConfigError, InputError, warn_caller
from xlm.model.inputs import check_device_exists
from xlm.model.lm import XLMModel, XLMWithLMHeadModel

_Model = TypeVar("_Model", bound=XLMModel)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Supported types of weights, by name."""


def parse_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """Return the type of weights, which may be given by name.

    Raises:
        ConfigError: The type is not float32, float16 or bfloat16.
    """
    found = DTYPES.get(dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or found not in DTYPES.values():
        raise ConfigError("no such type of weights", where="dtype", found=dtype, expected=", ".join(DTYPES))
    return found


def open_checkpoint(
    name_or_path: str | PathLike[str], *, causal: bool | None = None, hub: HubOptions | None = None
) -> Checkpoint:
    """Open and check the checkpoint of a name or path; its weights are mapped, not loaded.

    Args:
        name_or_path: A directory in the ``transformers`` layout, a ``.pth`` file of the original, the name of a bundled
            model, or an id on the hub.
        causal: Overrides the files: whether attention is causal.
        hub: How to fetch from the hub.

    Raises:
        CheckpointError: The checkpoint is missing or invalid.
    """
    path = find_model(name_or_path, MODEL, hub)
    if path.is_dir():
        layout = read_config(path, causal=causal)
        return Checkpoint(
            source=path,
            config=layout.config,
            tensors=match_tensors(TRANSFORMERS, read_weights(path), layout.config, where=path),
            record=layout.record,
            extra_config=layout.extra,
        )
    return read_original(path, causal=causal)


def load_model(
    name_or_path: str | PathLike[str],
    *,
    kind: type[_Model],
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    causal: bool | None = None,
    changes: Mapping[str, Any] | None = None,
    hub: HubOptions | None = None,
) -> _Model:
    """Load a model; see ``XLMModel.from_pretrained``.

    Args:
        name_or_path: As for ``from_pretrained``, like ``dtype``, ``device`` and ``causal``.
        kind: Class of the model; unless it is an ``XLMWithLMHeadModel``, the head's weights are skipped.
        dtype: Type of the weights.
        device: Device of the weights.
        causal: Whether attention is causal.
        changes: Other fields of the configuration that override the file.
        hub: How to fetch from the hub.
    """
    _check_arguments(kind, name_or_path, causal)
    kept = isinstance(dtype, str) and dtype == "auto"
    wanted = torch.float32 if dtype is None or kept else parse_dtype(dtype)
    if device is not None:
        check_device_exists(device)
    checkpoint = open_checkpoint(name_or_path, causal=causal, hub=hub)
    config = checkpoint.config.replace(**(changes or {}))
    # A training run may rewrite its .pth in place, which would change mapped weights, so these are copied. A
    # safetensors file is replaced as a whole, so its weights can stay mapped until they are written to.
    copy = not checkpoint.source.is_dir()
    state = {
        name: tensor.to(device=device or "cpu", dtype=tensor.dtype if kept else wanted, copy=copy)
        for name, tensor in checkpoint.tensors.items()
        if issubclass(kind, XLMWithLMHeadModel) or not name.startswith("head.")
    }
    model = empty_model(config, kind)
    own = sorted(model.state_dict().keys() - state.keys())
    if own or any(buffer.is_meta for buffer in model.buffers()):
        # No file holds what a subclass adds; its own __init__ initialises that.
        words = state["transformer.embeddings.word.weight"]
        model = kind(config).to(words.device, words.dtype)
    if own:
        warn_caller(f"{checkpoint.source} holds no {', '.join(own)}: what {kind.__name__} adds begins untrained")
    _assign(model, state, checkpoint.source)
    model.provenance = Provenance(extra_config=checkpoint.extra_config, record=checkpoint.record)
    return model.eval()


def _check_arguments(kind: type[XLMModel], name_or_path: object, causal: object) -> None:
    if not isinstance(name_or_path, str | PathLike):
        raise InputError(
            "name_or_path is not a name or path",
            where="name_or_path",
            found=repr(name_or_path),
            expected="a path, name or id",
        )
    if causal is not None and not isinstance(causal, bool):
        raise ConfigError("this is not a flag", where="causal", found=repr(causal), expected="True or False")
    signature = inspect.signature(kind)
    try:
        signature.bind("config")
    except TypeError as error:
        raise ConfigError(
            f"from_pretrained cannot make a {kind.__name__}",
            where=f"{kind.__name__}.__init__",
            found=f"{signature}: {error}",
            expected="(config), further arguments with defaults",
            remedy="give them defaults, or load an XLMWithLMHeadModel and pass it to your class",
        ) from error


def _assign(model: XLMModel, state: Mapping[str, Tensor], source: Path) -> None:
    expected = model.state_dict()
    wrong = [name for name, tensor in state.items() if name not in expected or expected[name].shape != tensor.shape]
    if wrong:
        raise ConfigError(
            f"{type(model).__name__} lacks parameters for weights in the file",
            where=source,
            found=", ".join(wrong),
            expected="a class that only adds to a model of this library",
            remedy="replace parts after loading",
        )
    model.load_state_dict(state, assign=True, strict=False)
