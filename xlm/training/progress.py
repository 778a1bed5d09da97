"""How far a run is, and how fast."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from xlm.data.order import Position
from xlm.training.config import TrainConfig


@dataclass(kw_only=True, slots=True)
class Progress:
    """How far a run is; with weights and moments, all that decides what comes next.

    Attributes:
        step: Batches taken.
        updates: Updates made; fewer than steps when some were skipped.
        skipped: Steps without a finite gradient.
        skipped_in_a_row: How many of them were the last ones.
        best: The lowest mean perplexity so far.
        losses: Of the updates since the last line of the log.
        position: In the data.
    """

    step: int = 0
    updates: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best: float | None = None
    losses: list[float] = field(default_factory=list)
    position: Position = field(default_factory=Position)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**dataclasses.asdict(self), "position": self.position.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Progress:
        """The progress that ``to_json`` gave."""
        return cls(**{**values, "position": Position.from_json(values["position"])})


class Meter:
    """Times since it was last read, and estimates from all of them."""

    def __init__(self, config: TrainConfig, progress: Progress) -> None:
        self._tokens = config.batch.rows * (config.batch.width - 1)
        self._last = config.run.updates
        self._progress = progress
        self._begun = self._read = time.perf_counter()
        self._first, self._read_step = progress.updates, progress.step

    def read(self) -> dict[str, Any]:
        """Predicted tokens a second since the last time, seconds so far and to come."""
        now, progress = time.perf_counter(), self._progress
        values = {
            "tokens_per_second": round(
                (progress.step - self._read_step) * self._tokens / max(now - self._read, 1e-9), 1
            ),
            "seconds": round(now - self._begun, 2),
            "left": round((now - self._begun) / (progress.updates - self._first) * (self._last - progress.updates)),
        }
        self._read, self._read_step = now, progress.step
        return values
