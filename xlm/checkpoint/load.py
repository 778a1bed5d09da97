"""Open checkpoints by name or path, and load models from them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from xlm._io.arguments import as_path, check_flags
from xlm.checkpoint.checkpoint import Checkpoint
from xlm.checkpoint.hf_config import read_config
from xlm.checkpoint.hf_weights import read_weights
from xlm.checkpoint.hub import MODEL, HubOptions
from xlm.checkpoint.original import read_original
from xlm.checkpoint.resolve import find_model
from xlm.checkpoint.state_dict_map import TRANSFORMERS
from xlm.checkpoint.tensors import empty_model, match_tensors
from xlm.errors import ConfigError, warn_caller
from xlm.model.inputs import check_device_exists
from xlm.model.lm import XLMModel, XLMWithLMHeadModel

_Model = TypeVar("_Model", bound=XLMModel)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Supported types of weights, by name."""


def parse_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """Return a supported type of weights, given as a ``torch.dtype`` or by name.

    Raises:
        ConfigError: The type is not float32, float16 or bfloat16.
    """
    parsed = DTYPES.get(dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    if not isinstance(parsed, torch.dtype) or parsed not in DTYPES.values():
        raise ConfigError("no such type of weights", where="dtype", found=dtype, expected=" or ".join(DTYPES))
    return parsed


def open_checkpoint(
    name_or_path: str | PathLike[str], *, causal: bool | None = None, hub: HubOptions | None = None
) -> Checkpoint:
    """Open and check a checkpoint, given by name or path. Its weights are memory-mapped, not loaded.

    Args:
        name_or_path: A directory in the ``transformers`` layout, a ``.pth`` file of the original, the name of a bundled
            model, or an id on the hub.
        causal: Whether attention is causal; ``None`` means as in the files.
        hub: Options for fetching from the hub.

    Raises:
        CheckpointError: The checkpoint is missing or invalid.
    """
    path = find_model(name_or_path, MODEL, hub)
    if path.is_dir():
        config, provenance = read_config(path, causal=causal)
        tensors = match_tensors(TRANSFORMERS, read_weights(path), config, where=path)
        return Checkpoint(source=path, config=config, tensors=tensors, provenance=provenance)
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
    """Load a model as an object of the class ``kind``; see ``XLMModel.from_pretrained``.

    The head's weights are loaded only for ``XLMWithLMHeadModel`` and its subclasses. ``changes`` are fields of the
    configuration that override those in the file.
    """
    as_path("name_or_path", name_or_path)
    if causal is not None:
        check_flags(causal=causal)
    _check_signature(kind)
    keeps_dtype = isinstance(dtype, str) and dtype == "auto"
    target_dtype = torch.float32 if dtype is None or keeps_dtype else parse_dtype(dtype)
    if device is not None:
        check_device_exists(device)
    checkpoint = open_checkpoint(name_or_path, causal=causal, hub=hub)
    config = checkpoint.config.replace(**(changes or {}))
    # A training run may rewrite its .pth in place, which would change mapped weights, so the weights of a .pth are
    # copied. A safetensors file is replaced as a whole, so its weights can stay mapped.
    copy = not checkpoint.source.is_dir()
    state = {
        name: tensor.to(device=device or "cpu", dtype=tensor.dtype if keeps_dtype else target_dtype, copy=copy)
        for name, tensor in checkpoint.tensors.items()
        if issubclass(kind, XLMWithLMHeadModel) or not name.startswith("head.")
    }
    model = empty_model(config, kind)
    added = sorted(model.state_dict().keys() - state.keys())
    if added or any(buffer.is_meta for buffer in model.buffers()):
        # No file holds the parameters that a subclass adds, so its __init__ initialises them.
        words = state["transformer.embeddings.word.weight"]
        model = kind(config).to(words.device, words.dtype)
    if added:
        warn_caller(f"{checkpoint.source} lacks {', '.join(added)}: these tensors of {kind.__name__} are untrained")
    _assign(model, state, checkpoint.source)
    model.provenance = checkpoint.provenance
    return model.eval()


def _check_signature(kind: type[XLMModel]) -> None:
    signature = inspect.signature(kind)
    try:
        signature.bind("config")
    except TypeError as error:
        raise ConfigError(
            f"from_pretrained cannot make a {kind.__name__}",
            where=f"{kind.__name__}.__init__",
            found=f"{signature}: {error}",
            expected="an argument config, and defaults for all others",
            remedy="add defaults, or load an XLMWithLMHeadModel and pass it to your class",
        ) from error


def _assign(model: XLMModel, state: Mapping[str, Tensor], source: Path) -> None:
    expected = model.state_dict()
    wrong = [name for name, tensor in state.items() if name not in expected or expected[name].shape != tensor.shape]
    if wrong:
        raise ConfigError(
            f"{type(model).__name__} lacks parameters for weights in the file",
            where=source,
            found=", ".join(wrong),
            expected="a class that keeps the parameters of this library's models",
            remedy="replace parts of the model after loading",
        )
    model.load_state_dict(state, assign=True, strict=False)
