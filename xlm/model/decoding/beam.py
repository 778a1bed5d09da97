"""Beam search.

Shapes: G prompts that still run, W beams of each in the batch (1 at first), B = G * W rows, V vocabulary,
c best tokens of a row, C best candidates of a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from xlm.model.attention import at_least_float32
from xlm.model.decoding.finite import check_finite
from xlm.model.decoding.options import DecodingOptions
from xlm.model.decoding.prompts import Prompts
from xlm.model.decoding.result import Continuation, stop_of
from xlm.model.decoding.stepper import Stepper
from xlm.model.decoding.warping import NEVER, Constraints


@dataclass(frozen=True, slots=True)
class _Beam:
    """A hypothesis that still runs, as its last token and the hypothesis before it."""

    total: float  # of the log-probabilities after penalties: what hypotheses are compared by
    token: int = -1
    logprob: float = 0.0
    before: _Beam | None = None
    place: int = 0  # among its prompt's beams, before this token

    def path(self) -> list[_Beam]:
        """All tokens from the first on."""
        beams: list[_Beam] = []
        beam = self
        while beam.before is not None:
            beams.append(beam)
            beam = beam.before
        return beams[::-1]


@dataclass(slots=True)
class _Group:
    """The hypotheses of one prompt, best first."""

    prompt: int
    limit: int
    running: list[_Beam] = field(default_factory=lambda: [_Beam(0.0)])
    finished: list[Continuation] = field(default_factory=list)

    def advance(self, candidates: list[_Beam], produced: int, options: DecodingOptions) -> None:
        """Takes the best candidates, best first: those that end finish, the others run on."""
        running: list[_Beam] = []
        for rank, beam in enumerate(candidates):
            if beam.total == NEVER:
                break
            stop = stop_of(beam.token, produced, self.limit, options)
            if stop is None:
                if len(running) < options.num_beams:
                    running.append(beam)
            elif rank < options.num_beams:  # what ends is as good as the beams that run on, or it is dropped
                path = beam.path()
                self.finished.append(
                    Continuation(
                        prompt=self.prompt,
                        tokens=tuple(step.token for step in path),
                        logprobs=tuple(step.logprob for step in path),
                        stop=stop,
                        score=beam.total / produced**options.length_penalty,
                    )
                )
        self.running = running
        self.finished = sorted(self.finished, key=_score, reverse=True)[: options.num_beams]

    def is_over(self, produced: int, options: DecodingOptions) -> bool:
        """Whether nothing that still runs can come among the finished."""
        if not self.running:
            return True
        if len(self.finished) < options.num_beams:
            return False
        if options.early_stopping is True:
            return True
        # No token raises the total, so the best that can come of a beam is its total at the length that weighs least.
        length = self.limit if options.length_penalty > 0 else produced + 1
        attainable: float = self.running[0].total / length**options.length_penalty
        return attainable <= _score(self.finished[-1])


def _score(continuation: Continuation) -> float:
    assert continuation.score is not None
    return continuation.score


def beam_search(stepper: Stepper, prompts: Prompts, options: DecodingOptions) -> list[list[Continuation]]:
    """The ``num_beams`` best continuations found for each prompt, best first; to be run under inference mode.

    Args:
        stepper: Fresh, with a row for each prompt.
        prompts: Checked.
        options: Checked, without ``do_sample``.
    """
    logits_BV = stepper.prefill(prompts.inputs)
    device, vocab_size = logits_BV.device, logits_BV.shape[1]
    constraints = Constraints(options, prompts.inputs.input_ids, prompts.inputs.valid, vocab_size=vocab_size)
    groups = [_Group(prompt, limit) for prompt, limit in enumerate(prompts.limits)]
    active = groups
    step = 0
    while True:
        candidates = _best_candidates(logits_BV, active, constraints, step, options)
        step += 1
        width = len(active[0].running)
        for group, best in zip(active, candidates, strict=True):
            group.advance(best, step, options)
        # Rows of the batch that go on, by where they are now.
        going_on = [(place, group) for place, group in enumerate(active) if not group.is_over(step, options)]
        if not going_on:
            return [group.finished for group in groups]
        rows = [place * width + beam.place for place, group in going_on for beam in group.running]
        regrouped = len(going_on) < len(active) or width < options.num_beams
        active = [group for _, group in going_on]
        if regrouped or rows != list(range(len(rows))):
            rows_R = torch.tensor(rows, device=device)
            # All beams of a prompt hold the same prompt.
            stepper.reorder(rows_R, shared=0 if regrouped else min(prompts.lengths[group.prompt] for group in active))
            constraints.reorder(rows_R)
        tokens_B = torch.tensor([beam.token for group in active for beam in group.running], device=device)
        constraints.add(tokens_B)
        langs_B = None
        if prompts.new_langs is not None:
            of_prompt = torch.tensor([group.prompt for group in active for _ in group.running], device=device)
            langs_B = prompts.new_langs[of_prompt, step - 1]
        logits_BV = stepper.step(tokens_B, langs_B)


def _best_candidates(
    logits_BV: Tensor, groups: list[_Group], constraints: Constraints, step: int, options: DecodingOptions
) -> list[list[_Beam]]:
    """The best ways to go on from each prompt's beams, best first; enough that ``num_beams`` of them do not end."""
    G, width = len(groups), len(groups[0].running)
    C = options.num_beams * (1 + max(1, len(options.eos_ids)))
    logits_BV = at_least_float32(logits_BV)
    normaliser_B1 = logits_BV.logsumexp(-1, keepdim=True)
    check_finite(normaliser_B1[:, 0])
    # Without a penalty what is subtracted from a whole row does not change its order: then only from its best tokens.
    logprobs_BV = logits_BV - normaliser_B1 if constraints.rescales else logits_BV
    best_Bc, tokens_Bc = constraints.apply(logprobs_BV, step).topk(min(C, logits_BV.shape[1]))
    if constraints.rescales:
        raw_Bc = logprobs_BV.gather(1, tokens_Bc)
    else:
        best_Bc = raw_Bc = best_Bc - normaliser_B1
    # In float64: a long hypothesis' total is large, and the differences between hypotheses are small.
    totals = [beam.total for group in groups for beam in group.running]
    total_Bc = torch.tensor(totals, dtype=torch.float64, device=logits_BV.device)[:, None] + best_Bc
    best_GC, where_GC = total_Bc.view(G, -1).topk(min(C, width * total_Bc.shape[1]))
    columns = zip(
        best_GC.tolist(),
        (where_GC // total_Bc.shape[1]).tolist(),
        tokens_Bc.view(G, -1).gather(1, where_GC).tolist(),
        raw_Bc.view(G, -1).gather(1, where_GC).tolist(),
        strict=True,
    )
    return [
        [
            _Beam(total, token, logprob, group.running[place], place)
            for total, place, token, logprob in zip(*column, strict=True)
        ]
        for group, column in zip(groups, columns, strict=True)
    ]
