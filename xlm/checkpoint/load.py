"""A name or path to a checkpoint, and a checkpoint to a model."""

from __future__ import annotations

from os import PathLike

import torch

from xlm.checkpoint.checkpoint import Checkpoint, Provenance
from xlm.checkpoint.hub import MODEL, HubOptions
from xlm.checkpoint.keys import TRANSFORMERS
from xlm.checkpoint.layout_config import read_config
from xlm.checkpoint.layout_weights import read_weights
from xlm.checkpoint.names import find_model
from xlm.checkpoint.original import read_original
from xlm.checkpoint.tensors import empty_model, match_tensors
from xlm.errors import ConfigError
from xlm.model.lm import XLMWithLMHeadModel

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Types that weights are loaded and written in, by name."""


def parse_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A type given as such or by its name.

    Raises:
        ConfigError: Not one of float32, float16, bfloat16.
    """
    found = DTYPES.get(dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    if found is None or found not in DTYPES.values():
        raise ConfigError("no such type for weights", where="dtype", found=dtype, expected=", ".join(DTYPES))
    return found


def open_checkpoint(
    name_or_path: str | PathLike[str], *, causal: bool | None = None, hub: HubOptions | None = None
) -> Checkpoint:
    """The checkpoint that a name or path stands for, checked; its weights are mapped, not yet in memory.

    Args:
        name_or_path: A directory in the ``transformers`` layout, a ``.pth`` file of the original, the name of a bundled
            model, or an id on the hub.
        causal: Overrides what the files say about the attention's direction.
        hub: How to fetch from the hub.

    Raises:
        CheckpointError: Nothing is there, or it is not what it should be.
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
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    causal: bool | None = None,
    hub: HubOptions | None = None,
) -> XLMWithLMHeadModel:
    """``XLMWithLMHeadModel.from_pretrained``, which has the documentation."""
    kept = dtype == "auto"
    wanted = torch.float32 if dtype is None or kept else parse_dtype(dtype)
    checkpoint = open_checkpoint(name_or_path, causal=causal, hub=hub)
    model = empty_model(checkpoint.config)
    # A .pth is rewritten in place by the training run that owns it, and mapped weights would change with it: those
    # are copied. A safetensors file is replaced as a whole, so its weights can stay mapped until they are written to.
    copy = not checkpoint.source.is_dir()
    state = {
        name: tensor.to(device=device or "cpu", dtype=tensor.dtype if kept else wanted, copy=copy)
        for name, tensor in checkpoint.tensors.items()
    }
    model.load_state_dict(state, assign=True)
    model.provenance = Provenance(extra_config=checkpoint.extra_config, record=checkpoint.record)
    return model.eval()
