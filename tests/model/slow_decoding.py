"""A plain reference for decoding: one row, no cache, full forward passes, lists of all candidates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from xlm.model.lm import XLMWithLMHeadModel

SPECIAL = tuple(index for index in range(14) if index != 1)
"""All special tokens but ``</s>``."""


@dataclass(frozen=True, kw_only=True)
class Slow:
    """A prompt, and the options for its continuation.

    Attributes:
        langs: The language of each token of the prompt, then of each new token; ``None`` for no languages.
    """

    model: XLMWithLMHeadModel
    prompt: Sequence[int]
    langs: Sequence[int] | None
    limit: int
    eos: Sequence[int] = (1,)
    suppressed: Sequence[int] = SPECIAL
    min_new_tokens: int = 0
    repetition_penalty: float = 1.0

    @torch.no_grad()
    def logprobs(self, new: Sequence[int]) -> list[float]:
        """Return the log-probability of each word as the next one, in nats."""
        ids = [*self.prompt, *new]
        langs = None if self.langs is None else torch.tensor([list(self.langs[: len(ids)])])
        logits = self.model(torch.tensor([ids]), langs=langs).logits[0, -1].double()
        values: list[float] = (logits - logits.logsumexp(0)).tolist()
        return values

    def logits(self, new: Sequence[int]) -> list[float]:
        with torch.no_grad():
            ids = [*self.prompt, *new]
            langs = None if self.langs is None else torch.tensor([list(self.langs[: len(ids)])])
            values: list[float] = self.model(torch.tensor([ids]), langs=langs).logits[0, -1].double().tolist()
            return values

    def constrained(self, scores: list[float], new: Sequence[int]) -> list[float]:
        """Return the scores after repetition penalty, minimum length and suppression."""
        scores = list(scores)
        for word in {*self.prompt, *new}:
            scores[word] *= self.repetition_penalty if scores[word] < 0 else 1 / self.repetition_penalty
        banned = {*self.suppressed, *(self.eos if len(new) < self.min_new_tokens else ())}
        return [-math.inf if word in banned else score for word, score in enumerate(scores)]

    def greedy(self) -> list[int]:
        new: list[int] = []
        while len(new) < self.limit:
            scores = self.constrained(self.logits(new), new)
            new.append(max(range(len(scores)), key=scores.__getitem__))
            if new[-1] in self.eos:
                break
        return new

    def beams(self, width: int, length_penalty: float) -> list[tuple[float, tuple[int, ...]]]:
        """Return the best ``width`` hypotheses with their scores; the search stops only at the limit."""
        running: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        finished: list[tuple[float, tuple[int, ...]]] = []
        for length in range(1, self.limit + 1):
            candidates = [
                (total + score, (*new, word))
                for total, new in running
                for word, score in enumerate(self.constrained(self.logprobs(new), new))
                if score > -math.inf
            ]
            candidates.sort(reverse=True)
            running = []
            for rank, (total, new) in enumerate(candidates):
                if new[-1] in self.eos or length == self.limit:
                    if rank < width:
                        finished.append((total / length**length_penalty, new))
                elif len(running) < width:
                    running.append((total, new))
        return sorted(finished, reverse=True)[:width]
