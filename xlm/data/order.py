"""The order of the batches, decided by a seed and a position alone.

Only raw numbers of numpy's generators are used, since numpy guarantees their stream across versions. Its methods
``permutation`` and ``choice`` may change, and then a resumed run would take other batches.
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
    """Position of a run in its data.

    Attributes:
        batches: Number of batches taken.
        taken: Number of batches taken from each language.
    """

    batches: int = 0
    taken: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the position as a JSON object."""
        return {"batches": self.batches, "taken": dict(self.taken)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Position:
        """Return the position from a result of ``to_json``."""
        return cls(batches=int(values["batches"]), taken={name: int(n) for name, n in values["taken"].items()})


@dataclass(frozen=True, kw_only=True)
class Order:
    """The order of the batches.

    Args:
        windows: Number of windows of each language.
        seed: Seed of the order.
        exponent: None for rounds in which every language comes once, in random order. Otherwise languages are drawn
            with a probability proportional to ``p ** exponent``, where p is the language's share of all windows.
        shuffle: Whether to shuffle the windows of a language anew for each pass, or take them in the order of the text.

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
                "a language has no text", where="windows", found=json.dumps(dict(self.windows)), expected="one or more"
            )

    def next(self, position: Position) -> tuple[str, int, Position]:
        """Return language and window of the next batch, and the position after it."""
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
        # The upper 53 bits of a raw number, as a fraction in [0, 1).
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
