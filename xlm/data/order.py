"""Which window of which language comes when: decided by a seed and a position, and by nothing else.

The generator's raw numbers are used, whose stream numpy promises to keep; what it makes of them (``permutation``,
``choice``) may change between its versions, and with it the run that is resumed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xlm.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a run is in its data.

    Attributes:
        batches: Batches taken.
        taken: How many of them from each language.
    """

    batches: int = 0
    taken: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"batches": self.batches, "taken": dict(self.taken)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Position:
        """The position that ``to_json`` gave."""
        return cls(batches=int(values["batches"]), taken={name: int(n) for name, n in values["taken"].items()})


@dataclass(frozen=True, kw_only=True)
class Order:
    """The order of the batches.

    Args:
        windows: Windows of each language.
        seed: Decides everything.
        exponent: None for rounds in which each language comes once, in an order drawn anew; a number a for languages
            drawn with a probability proportional to ``p ** a``, with p the language's share of all windows.
        shuffle: Whether the windows of a language come in an order that is drawn anew for each pass over them, or as
            they stand in the text.

    Source: the original's ``shuf_order`` and ``lg_sampling_factor``.
    """

    windows: Mapping[str, int]
    seed: int = 0
    exponent: float | None = None
    shuffle: bool = True
    _drawn: dict[tuple[str, int], np.ndarray[Any, Any]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.windows or min(self.windows.values()) < 1:
            raise InputError(
                "A language has no text", where="windows", found=json.dumps(dict(self.windows)), expected="one or more"
            )

    def next(self, position: Position) -> tuple[str, int, Position]:
        """Language and window of the next batch, and the position after it."""
        language = self._language(position.batches)
        taken = position.taken.get(language, 0)
        after = Position(batches=position.batches + 1, taken={**position.taken, language: taken + 1})
        return language, self._window(language, *divmod(taken, self.windows[language])), after

    def _language(self, batch: int) -> str:
        names = sorted(self.windows)
        if self.exponent is None:
            order = _shuffled(len(names), self.seed, "round", batch // len(names))
            return names[int(order[batch % len(names)])]
        total = sum(self.windows.values())
        weights = np.array([(self.windows[name] / total) ** self.exponent for name in names])
        # 53 bits of a raw number, as a fraction.
        draw = float(_generator(self.seed, "language", batch).random_raw() >> 11) * 2.0**-53
        return names[min(int(np.searchsorted(np.cumsum(weights / weights.sum()), draw, side="right")), len(names) - 1)]

    def _window(self, language: str, passes: int, place: int) -> int:
        if not self.shuffle:
            return place
        if (language, passes) not in self._drawn:
            for key in [key for key in self._drawn if key[0] == language]:
                del self._drawn[key]
            order = _shuffled(self.windows[language], self.seed, f"window {language}", passes)
            self._drawn[language, passes] = order
        return int(self._drawn[language, passes][place])


def _generator(seed: int, purpose: str, number: int) -> np.random.PCG64:
    return np.random.PCG64(np.random.SeedSequence([seed, number, *purpose.encode()]))


def _shuffled(length: int, seed: int, purpose: str, number: int) -> np.ndarray[Any, Any]:
    return np.argsort(_generator(seed, purpose, number).random_raw(length), kind="stable")
