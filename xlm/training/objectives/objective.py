"""The protocol between the training loop and what it optimises."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from xlm.model.lm import XLMWithLMHeadModel
from xlm.training.processes import ModelCaller


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What one process takes in one step.

    Attributes:
        pieces: Parts of the batch whose gradients are accumulated, at least one. Only the objective knows their type.
        tokens: Number of tokens to predict, over all processes.
        language: Language, or direction of translation, that the log names.
        position: Position of the objective after this batch, as a JSON object; saved in every checkpoint.
    """

    pieces: Sequence[Any]
    tokens: int
    language: str
    position: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """Results on held-out data.

    Attributes:
        results: Results for the log, as a JSON object.
        score: Score that decides which model is the best; lower is better.
    """

    results: Mapping[str, Any]
    score: float


class Objective(Protocol):
    """What a run optimises: its batches, its loss, its validation. The loop knows nothing else of the task.

    An objective decides everything by the seed and a position, so that a resumed run takes the same batches. It is
    built for one process and yields only that process's part of each batch.
    """

    @property
    def languages(self) -> Sequence[str]:
        """Languages that the model must have."""
        ...

    def identity(self) -> dict[str, Any]:
        """Return what a resumed run must have in common with the run it continues, as a JSON object."""
        ...

    def check(self, model: XLMWithLMHeadModel) -> None:
        """Check that the objective can train a model.

        Raises:
            ConfigError: It cannot.
        """
        ...

    def batches(self, position: Mapping[str, Any]) -> Generator[Batch, None, None]:
        """Yield batches without end.

        Args:
            position: Where to start: the position of an earlier batch, or an empty mapping for the beginning.
        """
        ...

    def loss(self, model: XLMWithLMHeadModel, piece: Any) -> Tensor:
        """Return the loss of one piece of a batch, in nats.

        The mean over the pieces and processes is the loss of the batch, so a piece with more tokens than others must
        count for more.

        Args:
            model: The model, in training mode, on the device of the process.
            piece: One of ``Batch.pieces``.
        """
        ...

    def validate(self, caller: ModelCaller) -> Validation | None:
        """Return results on held-out data, the same in all processes, or None if there is none.

        Args:
            caller: Calls functions of the model; in training mode before and after.
        """
        ...
