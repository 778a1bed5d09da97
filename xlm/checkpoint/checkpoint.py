"""A checkpoint in memory, whatever its file format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from xlm.model.config import XLMConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class OriginalRecord:
    """Contents of an original checkpoint besides its weights, which our files carry along.

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
    """Data that a loaded model keeps from its file for ``save_pretrained``.

    Attributes:
        extra_config: As in ``Checkpoint``.
        record: As in ``Checkpoint``.
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
        record: Contents of the original checkpoint besides its weights, if known.
        extra_config: Keys of ``config.json`` that do not describe the architecture.
        notes: Notices for the user about what was omitted or assumed while reading.
    """

    source: Path
    config: XLMConfig
    tensors: Mapping[str, Tensor]
    words: tuple[str, ...] | None = None
    record: OriginalRecord | None = None
    extra_config: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
