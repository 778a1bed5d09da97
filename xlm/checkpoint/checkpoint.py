"""A checkpoint in memory, whatever its file format, and the settings that no checkpoint may have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from xlm.errors import CheckpointError, ConfigError
from xlm.model.config import XLMConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class OriginalRecord:
    """Contents of an original checkpoint other than its weights; our files carry them along.

    Attributes:
        params: The ``params`` of its training run.
        counts: Frequency of each word in its training text, by id; words added later have none.
        training: ``epoch``, ``n_total_iter``, ``best_metrics``, ``best_stopping_criterion``, if present.
    """

    params: Mapping[str, Any]
    counts: tuple[int, ...]
    training: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Data about the origin of weights; a loaded model keeps it for ``save_pretrained``.

    Attributes:
        extra_config: Keys of ``config.json`` that do not describe the architecture.
        record: Contents of the original checkpoint besides its weights, if known.
    """

    extra_config: Mapping[str, Any] = field(default_factory=dict)
    record: OriginalRecord | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Weights under our names, with their configuration and origin.

    Attributes:
        source: The file or directory that was read.
        config: The architecture.
        tensors: Our names to weights of any floating type, usually mapped from the file, not loaded; the head's weight
            is absent when it is tied to the word embeddings.
        words: The dictionary of an original checkpoint, in id order and its ``@@`` notation; else ``None``.
        provenance: Other contents of the files, which are carried along.
        notes: Notices for the user about what was omitted or assumed while reading.
    """

    source: Path
    config: XLMConfig
    tensors: Mapping[str, Tensor]
    words: tuple[str, ...] | None = None
    provenance: Provenance = field(default_factory=Provenance)
    notes: tuple[str, ...] = ()


@contextmanager
def config_errors(where: object) -> Iterator[None]:
    """Convert an error about a file's configuration into a ``CheckpointError`` that names the place in the file."""
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
"""What each setting adds to the network when it is on; only off (false, zero, empty or absent) is implemented."""


def refuse_unsupported(settings: Mapping[str, Any], where: object) -> None:
    """Refuse settings of the original, its forks and ``transformers`` that change the network in an unsupported way.

    Such a setting often leaves the names and shapes of tensors alone, so nothing else would reveal it.

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
            remedy="use the program that trained the model; without these parts its numbers would be wrong",
        )


def _is_on(value: object) -> bool:
    try:
        return bool(value)
    except (RuntimeError, ValueError):  # the value is an array or tensor of several numbers
        return True
