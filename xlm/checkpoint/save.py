"""A model to files in the ``transformers`` layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xlm._atomic import make_directory, replacing, write_text
from xlm.checkpoint.checkpoint import OriginalRecord, Provenance
from xlm.checkpoint.keys import TRANSFORMERS
from xlm.checkpoint.layout_config import CONFIG_FILE, config_to_json
from xlm.checkpoint.layout_weights import WEIGHTS_FILE
from xlm.checkpoint.safetensors_writer import dtype_name, write_safetensors
from xlm.errors import WriteError
from xlm.model.config import XLMConfig
from xlm.model.lm import XLMWithLMHeadModel


def save_model(model: XLMWithLMHeadModel, directory: str | PathLike[str]) -> None:
    """``XLMWithLMHeadModel.save_pretrained``, which has the documentation."""
    target = Path(directory)
    make_directory(target)
    provenance = model.provenance if isinstance(model.provenance, Provenance) else Provenance()
    write_layout(target, model.config, model.state_dict(), extra=provenance.extra_config, record=provenance.record)


def write_layout(
    directory: Path,
    config: XLMConfig,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None = None,
    extra: Mapping[str, Any] | None = None,
    record: OriginalRecord | None = None,
) -> None:
    """Writes ``model.safetensors`` and ``config.json``, each whole or not at all.

    Args:
        directory: Is there already.
        config: The architecture.
        tensors: Our names to weights.
        dtype: Type to write; ``None`` means each tensor's own.
        extra: Further keys of ``config.json``.
        record: What to keep of an original checkpoint.

    Raises:
        WriteError: A file could not be written.
    """
    theirs = {TRANSFORMERS.theirs(name): tensor for name, tensor in tensors.items()}
    with replacing(directory / WEIGHTS_FILE) as temporary:
        write_safetensors(temporary, theirs, dtype=dtype)
    kind = dtype or tensors["transformer.embeddings.word.weight"].dtype
    contents = config_to_json(config, dtype=dtype_name(kind), extra=extra, record=record)
    try:
        text = json.dumps(contents, indent=2, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise WriteError("the configuration has no form in JSON", where=directory / CONFIG_FILE, found=error) from error
    write_text(directory / CONFIG_FILE, text + "\n")
