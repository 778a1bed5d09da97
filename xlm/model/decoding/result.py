"""What decoding gives for one row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from xlm.model.decoding.options import DecodingOptions

Stop = Literal["eos", "max_new_tokens", "positions"]
"""Why a row stopped: it ended itself, had as many tokens as asked for, or the model has no position left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Continuation:
    """One continuation of a prompt.

    Attributes:
        prompt: Row of the prompt it continues.
        tokens: The new ids, at least one; the one that ended the row, such as ``</s>``, included.
        logprobs: The log-probability of each in nats, under the model as it is: before penalties, suppression,
            temperature and all else that changes what is chosen.
        stop: Why it stopped.
        seed: When sampled, the row's own seed: ``generate`` on this prompt alone, with this seed, gives it again.
        score: From beam search, what the beams are ranked by.
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


def stop_of(token: int, produced: int, limit: int, options: DecodingOptions) -> Stop | None:
    """Why a row ends with a token, its ``produced``-th of at most ``limit``; ``None`` when it goes on."""
    if token in options.eos_ids:
        return "eos"
    if produced < limit:
        return None
    return "max_new_tokens" if limit == options.max_new_tokens else "positions"
