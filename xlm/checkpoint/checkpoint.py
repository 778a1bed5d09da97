"""A checkpoint in memory, whatever file it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from xlm.model.config import XLMConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class OriginalRecord:
    """What an original checkpoint holds beside its weights, and this project's files carry along.

    Attributes:
        params: The ``params`` of its training run.
        counts: How often each word stood in its training text, by id; fewer than words where some were added later.
        training: ``epoch``, ``n_total_iter``, ``best_metrics``, ``best_stopping_criterion``, as far as they are there.
    """

    params: Mapping[str, Any]
    counts: tuple[int, ...]
    training: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """What a loaded model carries along of its file, for ``save_pretrained`` to write again.

    Attributes:
        extra_config: As in ``Checkpoint``.
        record: As in ``Checkpoint``.
    """

    extra_config: Mapping[str, Any] = field(default_factory=dict)
    record: OriginalRecord | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Weights under our names, with what is known about them.

    Attributes:
        source: File or directory it was read from.
        config: The architecture.
        tensors: Our names to weights of any floating type, usually mapped from the file and not yet in memory; the
            head's weight is absent when it is the word embeddings.
        words: The dictionary of an original checkpoint, in id order and its ``@@`` notation; ``None`` elsewhere.
        record: What an original checkpoint holds beside its weights, or was kept of it.
        extra_config: Keys of a ``config.json`` that say nothing about the architecture.
        notes: What was left out or decided while reading, one sentence each, for the user to see.
    """

    source: Path
    config: XLMConfig
    tensors: Mapping[str, Tensor]
    words: tuple[str, ...] | None = None
    record: OriginalRecord | None = None
    extra_config: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
