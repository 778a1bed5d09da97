"""Beam search.

Shapes: G prompts still running, W beams of each prompt in the batch (1 at first), B = G * W rows, V vocabulary, c best
tokens of a row, C best candidates of a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from xlm.model.attention import at_least_float32
from xlm.model.decoding.logits_processors import NEVER, LogitsProcessor, check_finite, constraints
from xlm.model.decoding.options import DecodingOptions
from xlm.model.decoding.prompts import Prompts
from xlm.model.decoding.result import Continuation, Limit, Stop, stop_reason
from xlm.model.decoding.state import DecoderState

_TOPK_WIDTH = 128


@dataclass(frozen=True, slots=True)
class _Beam:
    """A running hypothesis: its last token and the hypothesis before it."""

    total: float  # sum of the log-probabilities after penalties, by which hypotheses are compared
    token: int = -1
    logprob: float = 0.0
    parent: _Beam | None = None
    parent_index: int = 0  # index of the parent among the beams of its prompt

    def path(self) -> list[_Beam]:
        """Return the chain of hypotheses from the first token to this one."""
        beams: list[_Beam] = []
        beam = self
        while beam.parent is not None:
            beams.append(beam)
            beam = beam.parent
        return beams[::-1]


@dataclass(slots=True)
class PromptBeams:
    """The hypotheses of one prompt, best first."""

    prompt: int
    limit: Limit
    running: list[_Beam] = field(default_factory=lambda: [_Beam(0.0)])
    finished: list[Continuation] = field(default_factory=list)

    def advance(self, candidates: list[_Beam], produced: int, options: DecodingOptions) -> None:
        """Take the best candidates, best first: those that end become finished, and the others keep running."""
        running: list[_Beam] = []
        for rank, beam in enumerate(candidates):
            if beam.total == NEVER:
                break
            stop = stop_reason(beam.token, produced, self.limit, options)
            if stop is None:
                if len(running) < options.num_beams:
                    running.append(beam)
            elif rank < options.num_beams:  # a finished hypothesis must be among the num_beams best candidates
                self.finish(beam, stop, produced, options)
        self.running = running
        self.keep_best(options)

    def finish(self, beam: _Beam, stop: Stop, produced: int, options: DecodingOptions) -> None:
        """Add a hypothesis to the finished ones."""
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

    def keep_best(self, options: DecodingOptions) -> None:
        """Keep only the ``num_beams`` best finished hypotheses; of equal ones, the earlier is better."""
        self.finished = sorted(self.finished, key=_score, reverse=True)[: options.num_beams]

    def is_over(self, produced: int, options: DecodingOptions) -> bool:
        """Return whether no running hypothesis can still replace a finished one."""
        if not self.running:
            return True
        if len(self.finished) < options.num_beams:
            return False
        if options.early_stopping is True:
            return True
        # Further tokens never raise the total, so the present total at the most favourable length bounds the score.
        # That length is the longest for a positive penalty, else the shortest.
        length = self.limit.tokens if options.length_penalty > 0 else produced + 1
        attainable: float = self.running[0].total / length**options.length_penalty
        return attainable <= _score(self.finished[-1])


class TranslationBeams(PromptBeams):
    """The hypotheses of one source sentence, by the rules of the original's beam search.

    A hypothesis may end if fewer than ``num_beams`` running hypotheses are better. ``PromptBeams`` is stricter: the
    hypothesis must be among the ``num_beams`` best candidates.

    Source: the original's ``generate_beam``.
    """

    __slots__ = ()

    def advance(self, candidates: list[_Beam], produced: int, options: DecodingOptions) -> None:
        """Take the best candidates, best first, until ``num_beams`` hypotheses keep running."""
        running: list[_Beam] = []
        for beam in candidates:
            if beam.total == NEVER or len(running) == options.num_beams:
                break
            stop = stop_reason(beam.token, produced, self.limit, options)
            if stop != "eos":
                running.append(beam)
            if stop is not None:
                self.finish(beam, stop, produced, options)
        self.running = running if produced < self.limit.tokens else []
        self.keep_best(options)


class OriginalBeams(TranslationBeams):
    """Like ``TranslationBeams``, but hypotheses at their limit are cut as in the original.

    At the limit, every candidate becomes a finished hypothesis. Its last token counts in its score, but is then
    replaced by ``</s>``.
    """

    __slots__ = ()

    def advance(self, candidates: list[_Beam], produced: int, options: DecodingOptions) -> None:
        """Take the best candidates, best first."""
        if produced < self.limit.tokens:
            super().advance(candidates, produced, options)
            return
        for beam in candidates:
            stop = stop_reason(beam.token, produced, self.limit, options)
            assert stop is not None
            self.finish(beam, stop, produced, options)
        self.running = []
        self.finished = [cut_like_the_original(continuation, options) for continuation in self.finished]
        self.keep_best(options)


def cut_like_the_original(continuation: Continuation, options: DecodingOptions) -> Continuation:
    """Return the continuation; if it was cut, ``</s>`` replaces its last token."""
    if continuation.stop == "eos":
        return continuation
    return replace(continuation, tokens=(*continuation.tokens[:-1], options.eos_ids[0]))


def _score(continuation: Continuation) -> float:
    assert continuation.score is not None
    return continuation.score


def beam_search(
    state: DecoderState, prompts: Prompts, options: DecodingOptions, *, rules: type[PromptBeams] = PromptBeams
) -> list[list[Continuation]]:
    """Return the ``num_beams`` best continuations of each prompt, best first.

    Must run under ``torch.inference_mode()``.

    Args:
        state: A new state with a row for each prompt.
        prompts: Checked prompts.
        options: Checked options, without ``do_sample``.
        rules: The class that decides which hypotheses end, and how.
    """
    logits_BV = state.prefill(prompts.inputs)
    device, vocab_size = logits_BV.device, logits_BV.shape[1]
    processors = constraints(options, prompts.ids, prompts.valid_ids, vocab_size=vocab_size)
    groups = [rules(prompt, limit) for prompt, limit in enumerate(prompts.limits)]
    active = groups
    step = 0
    while True:
        candidates = _best_candidates(logits_BV, active, processors, step, options)
        step += 1
        width = len(active[0].running)
        for group, best in zip(active, candidates, strict=True):
            group.advance(best, step, options)
        remaining = [(index, group) for index, group in enumerate(active) if not group.is_over(step, options)]
        if not remaining:
            return [group.finished for group in groups]
        regrouped = len(remaining) < len(active) or width < options.num_beams
        if not regrouped:
            for group in active:
                group.running = _in_rows_of_parents(group.running)
        rows = [index * width + beam.parent_index for index, group in remaining for beam in group.running]
        active = [group for _, group in remaining]
        if regrouped or rows != list(range(len(rows))):
            rows_R = torch.tensor(rows, device=device)
            # All beams of a prompt begin with the prompt's tokens, so the cache of these tokens need not be copied.
            state.reorder(rows_R, shared=0 if regrouped else min(prompts.lengths[group.prompt] for group in active))
            processors.reorder(rows_R)
        tokens_B = torch.tensor([beam.token for group in active for beam in group.running], device=device)
        processors.add(tokens_B)
        langs_B = None
        if prompts.new_langs is not None:
            prompt_B = torch.tensor([group.prompt for group in active for _ in group.running], device=device)
            langs_B = prompts.new_langs[prompt_B, step - 1]
        logits_BV = state.step(tokens_B, langs_B)


def _in_rows_of_parents(beams: list[_Beam]) -> list[_Beam]:
    """Return as many hypotheses of a prompt, in an order in which most keep their parent's row of the cache."""
    children: dict[int, _Beam] = {}
    others = [beam for beam in beams if children.setdefault(beam.parent_index, beam) is not beam]
    return [children.get(index) or others.pop() for index in range(len(beams))]


def _best_candidates(
    logits_BV: Tensor, groups: list[PromptBeams], processors: LogitsProcessor, step: int, options: DecodingOptions
) -> list[list[_Beam]]:
    """Return each prompt's best next hypotheses, best first: so many that at least ``num_beams`` of them do not end."""
    G, width = len(groups), len(groups[0].running)
    C = options.num_beams * (1 + max(1, len(options.eos_ids)))
    logprobs_BV = at_least_float32(logits_BV).log_softmax(-1)
    best_Bc, tokens_Bc = topk(processors(logprobs_BV, step), min(C, logits_BV.shape[1]))
    check_finite(best_Bc[:, 0])
    raw_Bc = logprobs_BV.gather(1, tokens_Bc) if processors.rescales else best_Bc
    # Use float64: the total of a long hypothesis is large, and the differences between hypotheses are small.
    totals = [beam.total for group in groups for beam in group.running]
    total_Bc = torch.tensor(totals, dtype=torch.float64, device=logits_BV.device)[:, None] + best_Bc
    best_GC, index_GC = total_Bc.view(G, -1).topk(min(C, width * total_Bc.shape[1]))
    columns = zip(
        best_GC.tolist(),
        (index_GC // total_Bc.shape[1]).tolist(),
        tokens_Bc.view(G, -1).gather(1, index_GC).tolist(),
        raw_Bc.view(G, -1).gather(1, index_GC).tolist(),
        strict=True,
    )
    return [
        [
            _Beam(total, token, logprob, group.running[parent], parent)
            for total, parent, token, logprob in zip(*column, strict=True)
        ]
        for group, column in zip(groups, columns, strict=True)
    ]


def topk(scores_BV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k highest scores of each row, best first, and their ids; NaN counts as the highest score.

    On a CPU, ``torch.topk`` takes three times as long over a large vocabulary. This function finds the highest score of
    each block first: the k best scores are in the k best blocks, or behind the last block.
    """
    V = scores_BV.shape[1]
    if scores_BV.device.type != "cpu" or V < 2 * k * _TOPK_WIDTH:
        return scores_BV.topk(k)
    end = V // _TOPK_WIDTH * _TOPK_WIDTH
    blocks_BK1 = scores_BV[:, :end].view(len(scores_BV), -1, _TOPK_WIDTH).amax(2).topk(k).indices[..., None]
    ids_BI = (blocks_BK1 * _TOPK_WIDTH + torch.arange(_TOPK_WIDTH)).flatten(1)
    ids_BI = torch.cat([ids_BI, torch.arange(end, V).expand(len(ids_BI), -1)], 1)
    best_Bk, chosen_Bk = scores_BV.gather(1, ids_BI).topk(k)
    return best_Bk, ids_BI.gather(1, chosen_Bk)
