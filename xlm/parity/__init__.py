"""Comparison of a model with expected numbers: ``reference`` reads them, ``peer`` gets them from ``transformers``."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from xlm.errors import CheckpointError

# The relative precision of float32 is 6e-8. With a width of 1,000 and a few layers, another order of summation moved
# the logits of the recorded models by up to 5e-7 of the largest logit. The recorded numbers have similar errors.
LOGITS_BOUND = 2e-6
"""Largest allowed difference of logits or hidden states, as a fraction of the largest expected value."""
ROUNDING_FACTOR = 2
"""Largest allowed difference of logits from another program's logits, as a multiple of that program's rounding error.

The rounding error is the difference between that program's float32 and float64 logits. The factor is 2, because both
programs round. This bound applies only where it exceeds ``LOGITS_BOUND``.
"""
LOSS_BOUND = 1e-5
"""Largest allowed difference of the loss, in nats."""
GRADIENT_BOUND = 1e-5
"""Largest allowed norm of a gradient's difference, relative to the gradient's norm."""
LOGPROB_BOUND = 1e-4
"""Largest allowed difference of a token's log-probability, in nats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Comparison of one kind of number.

    Attributes:
        name: What was compared.
        compared: Number of values.
        worst: Largest difference.
        bound: Largest allowed difference.
        unit: Unit of ``worst`` and ``bound``.
    """

    name: str
    compared: int
    worst: float
    bound: float
    unit: str

    @property
    def holds(self) -> bool:
        """Whether the largest difference is within the bound; false for NaN."""
        return self.worst <= self.bound


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityReport:
    """Result of a parity check.

    Attributes:
        model: Name of the model.
        against: Source of the expected numbers.
        comparisons: One comparison for each kind of number.
    """

    model: str
    against: str
    comparisons: tuple[Comparison, ...]

    @property
    def holds(self) -> bool:
        """Whether every comparison is within its bound."""
        return all(comparison.holds for comparison in self.comparisons)

    def __str__(self) -> str:
        width = max(len(comparison.name) for comparison in self.comparisons)
        lines = [f"{self.model} against {self.against}"]
        for c in self.comparisons:
            verdict = "ok" if c.holds else "DIFFERS"
            lines.append(
                f"  {c.name:<{width}}  {c.compared:>12,} compared  worst {c.worst:9.3g}  "
                f"allowed {c.bound:7.1g} {c.unit}  {verdict}"
            )
        lines.append("parity holds" if self.holds else "parity DOES NOT HOLD")
        return "\n".join(lines)


def larger(a: float, b: float) -> float:
    """Return the larger of two differences, or NaN if either is NaN; Python's ``max`` can drop a NaN."""
    return b if b > a or b != b else a


def compare_relative(name: str, actual: Tensor, expected: Tensor) -> Comparison:
    """Compare two tensors of the same shape. The difference is relative to the largest expected value.

    Raises:
        CheckpointError: The shapes differ.
    """
    if actual.shape != expected.shape:
        raise other_model_error(name, actual=actual, expected=expected)
    worst = float((actual - expected).abs().max() / expected.abs().max())
    return Comparison(name=name, compared=expected.numel(), worst=worst, bound=LOGITS_BOUND, unit="of the largest")


def other_model_error(name: str, *, actual: Tensor | None, expected: Tensor) -> CheckpointError:
    """Return the error for a tensor in the reference that does not fit the model."""
    shape = None if actual is None else tuple(actual.shape)
    return CheckpointError(
        "the reference belongs to another model", where=name, found=tuple(expected.shape), expected=shape
    )


def compare_count(name: str, compared: int, differing: int) -> Comparison:
    """Return a comparison that counts differing items, none of which is allowed."""
    return Comparison(name=name, compared=compared, worst=differing, bound=0, unit="")
