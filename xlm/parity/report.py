"""What a parity check found."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from xlm.errors import CheckpointError

# Why these bounds: float32 carries 6e-8 relative, and a different order of summation over a width of 1,000 and a few
# layers was seen to move the recorded models' logits by up to 5e-7 of the largest one. The recorded answers themselves
# are as uncertain.
LOGITS_BOUND = 2e-6
"""Largest difference of logits and hidden states, relative to the largest of them."""
ROUNDING_FACTOR = 2
"""How many times as far from another program's logits ours may be as those are from the same in float64, where that is
more than ``LOGITS_BOUND``: both round, in orders of their own."""
LOSS_BOUND = 1e-5
"""Largest difference of the loss, in nats."""
GRADIENT_BOUND = 1e-5
"""Norm of a gradient's difference, relative to the gradient's norm."""
LOGPROB_BOUND = 1e-4
"""Largest difference of a token's log-probability, in nats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One kind of number, compared.

    Attributes:
        name: What was compared.
        compared: How many numbers.
        worst: The largest difference.
        bound: The largest that is allowed.
        unit: What both are measured in.
    """

    name: str
    compared: int
    worst: float
    bound: float
    unit: str

    @property
    def holds(self) -> bool:
        """Whether the worst difference is within the bound; never when it is not a number."""
        return self.worst <= self.bound


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityReport:
    """Everything that was compared.

    Attributes:
        model: The model that was checked.
        against: Whose numbers it was held against.
        comparisons: One a kind of number.
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
    """The larger of two differences; not a number when one of them is not, which Python's ``max`` can lose."""
    return b if b > a or b != b else a


def relative(name: str, found: Tensor, expected: Tensor) -> Comparison:
    """Two tensors of one shape, compared relative to the largest expected value.

    Raises:
        CheckpointError: Their shapes differ.
    """
    if found.shape != expected.shape:
        raise CheckpointError(
            "the reference is of another model", where=name, found=tuple(expected.shape), expected=tuple(found.shape)
        )
    worst = float((found - expected).abs().max() / expected.abs().max())
    return Comparison(name=name, compared=expected.numel(), worst=worst, bound=LOGITS_BOUND, unit="of the largest")


def count(name: str, compared: int, differing: int) -> Comparison:
    """Things that are the same or not, of which none may differ."""
    return Comparison(name=name, compared=compared, worst=differing, bound=0, unit="")
