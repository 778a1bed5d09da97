"""Translation written as a plain loop: one sentence, no cache, whole forwards, lists of all candidates.

The rules are those that the original states for its greedy and beam search; see the recorded runs for its own answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from xlm.model.seq2seq import XLMEncoderDecoderModel

EOS = 1


@dataclass(frozen=True, kw_only=True)
class SlowTranslation:
    """One source sentence and how to translate it.

    Attributes:
        source: Ids from ``</s>`` to ``</s>``.
        langs: Language ids of source and target; ``None`` for a model without languages.
        max_length: The longest translation, both ``</s>`` counted.
    """

    model: XLMEncoderDecoderModel
    source: Sequence[int]
    langs: tuple[int, int] | None
    max_length: int

    @torch.no_grad()
    def logprobs(self, target: Sequence[int]) -> list[float]:
        """Return the log-probability of each word after ``</s>`` and ``target``, in nats."""
        options: dict[str, Any] = {} if self.langs is None else {"langs": self.langs[0], "decoder_langs": self.langs[1]}
        logits = self.model(torch.tensor([self.source]), torch.tensor([[EOS, *target]]), **options).logits[0, -1]
        values: list[float] = logits.double().log_softmax(0).tolist()
        return values

    def greedy(self, *, original: bool) -> list[int]:
        """Return the ids after the first ``</s>``."""
        target: list[int] = []
        while not target or (target[-1] != EOS and len(target) < self.max_length - 1):
            scores = self.logprobs(target)
            target.append(max(range(len(scores)), key=scores.__getitem__))
        if original:
            target[-1] = EOS
        return target

    def beams(
        self, width: int, *, length_penalty: float, early: bool, original: bool
    ) -> list[tuple[float, tuple[int, ...]]]:
        """Return the best hypotheses, best first, with their scores.

        A hypothesis that ends takes part as long as fewer than ``width`` better ones go on. Without ``early`` this
        never stops before the limit, which can find nothing better than a search that stops when it safely can.
        """
        running: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        finished: list[tuple[float, tuple[int, ...]]] = []
        for length in range(1, self.max_length):
            at_limit = length == self.max_length - 1
            candidates = [
                (total + score, (*target, word))
                for total, target in running
                for word, score in enumerate(self.logprobs(target))
            ]
            candidates = sorted(candidates, key=lambda candidate: -candidate[0])[: 2 * width]
            going_on: list[tuple[float, tuple[int, ...]]] = []
            for total, target in candidates:
                score = total / length**length_penalty
                if at_limit and original:
                    finished.append((score, (*target[:-1], EOS)))
                    continue
                if len(going_on) == width:
                    break
                if target[-1] == EOS:
                    finished.append((score, target))
                else:
                    going_on.append((total, target))
                    if at_limit:
                        finished.append((score, target))
            finished = sorted(finished, key=lambda hypothesis: -hypothesis[0])[:width]
            running = going_on
            if early and len(finished) == width:
                break
        return finished
