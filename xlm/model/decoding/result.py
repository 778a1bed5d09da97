"""The result of decoding for one row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from xlm.model.decoding.options import DecodingOptions

Stop = Literal["eos", "max_new_tokens", "max_length", "positions"]
"""Why a row ended: with an end token, at the limit that was asked for, or because the model has no position left."""


class Limit(NamedTuple):
    """How far a row can go.

    Attributes:
        tokens: Maximum number of new tokens.
        stop: Why the row stops there.
    """

    tokens: int
    stop: Stop


@dataclass(frozen=True, kw_only=True, slots=True)
class Continuation:
    """One continuation of a prompt.

    Attributes:
        prompt: Row of the prompt in the batch.
        tokens: The new ids, at least one, including the one that ended the row, such as ``</s>``.
        logprobs: Log-probability of each token in nats under the model itself, without penalties, suppression,
            temperature or other options.
        stop: Why the row ended.
        seed: The row's seed if it was sampled. ``generate`` on this prompt alone, with this seed, returns the same
            continuation.
        score: The number that beam search ranks continuations by.
    """

    prompt: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop: Stop
    seed: int | None = None
    score: float | None = None

    @property
    def logprob(self) -> float:
        """Log-probability of the whole continuation in nats: the sum of ``logprobs``."""
        return sum(self.logprobs)


def stop_reason(token: int, produced: int, limit: Limit, options: DecodingOptions) -> Stop | None:
    """Return why a row ends after a token, or ``None`` if it continues.

    Args:
        token: Id of the new token.
        produced: Number of new tokens in the row, this one included.
        limit: Limit of the row.
        options: Checked options.
    """
    if token in options.eos_ids:
        return "eos"
    return limit.stop if produced >= limit.tokens else None
