"""Checkpoint in memory, independent of its file format, and a check for unsupported model settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xlm.errors import CheckpointError, ConfigError
from xlm.model.config import XLMConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class OriginalRecord:
    """Contents of an original checkpoint besides its weights, kept so that it can be converted back.

    Attributes:
        params: The parameters of the training run, from the key ``params``.
        counts: How often each word occurs in the training text, in id order. Words added later have no count.
        training: State of the training run: those of the keys ``epoch``, ``n_total_iter``, ``best_metrics`` and
            ``best_stopping_criterion`` that the checkpoint has.
    """

    params: Mapping[str, Any]
    counts: tuple[int, ...]
    training: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Contents of a checkpoint that the network does not need. A loaded model keeps them for ``save_pretrained``.

    Attributes:
        extra_config: Keys of ``config.json`` that do not describe the architecture.
        record: Contents of the original checkpoint besides its weights; ``None`` if there was no such checkpoint.
    """

    extra_config: Mapping[str, Any] = field(default_factory=dict)
    record: OriginalRecord | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Weights under this library's tensor names, with their configuration and origin.

    Attributes:
        source: The file or directory that was read.
        config: The architecture.
        tensors: Weights by this library's tensor names, of any floating type, usually memory-mapped from the file. A
            head weight that is tied to the word embeddings is absent.
        words: Vocabulary of an original checkpoint, in id order and ``@@`` notation; ``None`` for other checkpoints.
        provenance: Other contents of the files, which a converted or saved checkpoint keeps.
        is_encoder_decoder: Whether the weights are those of an ``XLMEncoderDecoderModel``; names of tensors then begin
            with ``encoder.`` or ``decoder.``.
        notes: Notices for the user about what was omitted or assumed while reading.
    """

    source: Path
    config: XLMConfig
    tensors: Mapping[str, Tensor]
    words: tuple[str, ...] | None = None
    provenance: Provenance = field(default_factory=Provenance)
    is_encoder_decoder: bool = False
    notes: tuple[str, ...] = ()

    @property
    def dtype(self) -> torch.dtype:
        """Type of the word embeddings, for which the whole model is named."""
        return weights_dtype(self.tensors)


def weights_dtype(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """Return the type of the word embeddings among weights under our names."""
    return next(tensor.dtype for name, tensor in tensors.items() if name.endswith("transformer.embeddings.word.weight"))


@contextmanager
def config_errors(where: object) -> Iterator[None]:
    """Convert an error about a file's configuration into a ``CheckpointError`` that names the file."""
    try:
        yield
    except (ValueError, TypeError, AttributeError) as error:
        found, expected = (error.found, error.expected) if isinstance(error, ConfigError) else (error, None)
        raise CheckpointError(
            "the configuration cannot make a model", where=where, found=found, expected=expected
        ) from error


_UNSUPPORTED = {
    # Settings of the original.
    "use_memory": "product-key memory layers",
    # Settings of FlauBERT, in its checkpoints and in the configurations of transformers.
    "pre_norm": "LayerNorm before each sublayer instead of after it",
    # Settings of TransCoder and CodeGen.
    "roberta_mode": "positions counted from the padding id",
    "spans_emb_encoder": "span embeddings",
    # Settings of forks that have separate layers for each language.
    "lang_specific_LN": "a LayerNorm for each language",
    "lang_specific_FFN": "a feed-forward layer for each language",
    "lang_specific_ATTN": "attention for each language",
    "lang_specific_ADPT": "an adapter for each language",
    # Settings of transformers.
    "pruned_heads": "layers with fewer heads",
    "quantization_config": "quantized weights",
}
"""Unsupported settings, and what each adds to the network. They must be off: false, zero, empty or absent."""


def refuse_unsupported(settings: Mapping[str, Any], where: object) -> None:
    """Refuse settings of the original, its forks and ``transformers`` that change the network in an unsupported way.

    Such a setting often does not change the names and shapes of tensors, so only this check detects it.

    Args:
        settings: The ``params`` of an original checkpoint, or the contents of ``config.json``.
        where: The file, for the message.

    Raises:
        CheckpointError: At least one such setting is on; the message names all of them.
    """
    if on := [name for name in _UNSUPPORTED if _is_on(settings.get(name))]:
        raise CheckpointError(
            "the model has parts that are not implemented",
            where=where,
            found="; ".join(f"{name} = {settings[name]!r:.80} ({_UNSUPPORTED[name]})" for name in on),
            expected=f"{', '.join(on)} off or absent",
            remedy="use the program that trained the model; without these parts the results would be wrong",
        )


def _is_on(value: object) -> bool:
    try:
        return bool(value)
    except (RuntimeError, ValueError):  # bool() fails for an array of several numbers
        return True
