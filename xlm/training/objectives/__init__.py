"""What a run optimises: the protocol between the training loop and its objective.

``clm.py`` is the example of an objective to follow. To add an objective, write its class in a file of this folder, and
add it to ``_OBJECTIVES`` (``xlm/training/setup.py``) and to ``parse_objective`` (``xlm/training/config.py``).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from xlm.training.processes import ModelCaller


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The part of a batch that one process takes in one step.

    Attributes:
        pieces: Parts of the batch whose gradients are accumulated, at least one. Only the objective knows their type.
        tokens: Number of tokens to predict, over all processes.
        objective: Name under which the log averages the losses, such as ``clm``.
        language: Language, or direction of translation, that the log names.
        position: Position of the objective after this batch, as a JSON object; saved in every checkpoint.
        weight: Factor by which the loss is multiplied before its gradient is computed. The log shows the loss
            without this factor.
    """

    pieces: Sequence[Any]
    tokens: int
    objective: str
    language: str
    position: Mapping[str, Any]
    weight: float = 1.0


class Objective(Protocol):
    """What a run optimises: its batches, its loss and its validation. The loop knows nothing else about the task.

    The seed and a position determine the batches, so that a resumed run takes the same ones. An objective is built for
    one process, and yields only that process's part of each batch. An objective may combine several others: it then
    yields their batches in turn, and its position contains their positions.
    """

    @property
    def languages(self) -> Sequence[str]:
        """Languages that the model must have."""
        ...

    @property
    def metrics(self) -> Mapping[str, bool]:
        """Names of the metrics that ``validate`` computes; each maps to true if a higher value is better.

        Empty without held-out data. A metric of one language or direction has a name such as ``perplexity.de``. The
        first metric decides which model is the best, unless ``run.best_metric`` names another.
        """
        ...

    def identity(self) -> dict[str, Any]:
        """Return a JSON object that must be the same in a resumed run and in the run that it continues."""
        ...

    def check(self, model: Any) -> None:
        """Check that the objective can train a model.

        Raises:
            ConfigError: The objective cannot train the model.
        """
        ...

    def batches(self, position: Mapping[str, Any]) -> Generator[Batch, None, None]:
        """Yield batches without end; in each step, all processes have the same number of pieces.

        Args:
            position: Where to start: the position of an earlier batch, or an empty mapping for the beginning.
        """
        ...

    def loss(self, model: Any, piece: Any) -> Tensor:
        """Return the loss of one piece of a batch, in nats.

        The loss of the batch is the mean over its pieces and the processes, so the loss of a piece must be scaled in
        proportion to its number of tokens. Before it computes the loss, an objective may run the model without
        gradients, for example to translate the piece.

        Args:
            model: The model, in training mode, on the device of the process.
            piece: One of ``Batch.pieces``.
        """
        ...

    def validate(self, caller: ModelCaller, *, updates: int) -> Mapping[str, Any]:
        """Return results on held-out data, the same in all processes: numbers, or numbers by language.

        Args:
            caller: Calls functions with the model, which is in training mode before and after this method.
            updates: Number of updates so far.
        """
        ...
