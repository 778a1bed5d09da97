"""Coefficients of losses, which change in the course of a run."""

from __future__ import annotations

import bisect
import itertools
import math
from dataclasses import dataclass

from xlm.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Coefficient:
    """A number that changes linearly between given iterations, and is constant after the last of them.

    Attributes:
        points: Pairs of an iteration and the value there, ascending; before the first, the first value.

    Source: the original's ``parse_lambda_config`` in ``src/utils.py``.
    """

    points: tuple[tuple[int, float], ...]

    @classmethod
    def parse(cls, text: str, *, where: str) -> Coefficient:
        """Return the coefficient that a text describes.

        Args:
            text: A number, such as ``"0.5"``, or points, such as ``"0:1,100000:0.1,300000:0"``.
            where: What the text is, for an error.

        Raises:
            ConfigError: The text is neither.
        """
        points: tuple[tuple[int, float], ...] = ()
        try:
            if ":" not in text:
                points = ((0, float(text)),)
            else:
                pairs = [point.split(":") for point in text.split(",")]
                points = tuple((int(iteration), float(value)) for iteration, value in pairs)
        except ValueError:
            pass
        iterations = [iteration for iteration, _ in points]
        ascending = all(a < b for a, b in itertools.pairwise([-1, *iterations]))
        if not points or not ascending or not all(math.isfinite(value) and value >= 0 for _, value in points):
            raise ConfigError(
                "the schedule of a coefficient cannot be parsed",
                where=where,
                found=repr(text),
                expected="a number from 0, such as '0.5', or ITERATION:NUMBER pairs with ascending iterations, such "
                "as '0:1,1000:0.1'",
            )
        return cls(points)

    @property
    def last(self) -> float:
        """The value after the last of the points."""
        return self.points[-1][1]

    def at(self, iteration: int) -> float:
        """Return the value at an iteration, counted from 0."""
        index = bisect.bisect_right(self.points, iteration, key=lambda point: point[0])
        if index == 0:
            return self.points[0][1]
        if index == len(self.points):
            return self.last
        (before, value), (after, next_value) = self.points[index - 1 : index + 1]
        return value + (next_value - value) * (iteration - before) / (after - before)
