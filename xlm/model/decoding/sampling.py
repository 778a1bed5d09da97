"""Greedy decoding and sampling: one token a row and step.

How a token is chosen from its scores is a ``SamplingStrategy``. A new one is a class here and a line in
``strategy_for``.

Shapes: B rows, V vocabulary, S the most new tokens, K blocks of W words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from xlm.model.attention import at_least_float32
from xlm.model.decoding.logits_processors import LogitsProcessor, check_finite, constraints, warpers
from xlm.model.decoding.options import DecodingOptions
from xlm.model.decoding.prompts import Prompts
from xlm.model.decoding.result import Continuation, Stop, stop_reason
from xlm.model.decoding.state import DecoderState

_ARGMAX_WIDTH = 512


class GeneratedToken(NamedTuple):
    """One new token.

    Attributes:
        row: Row of the result: sequence j of prompt i is row ``i * num_return_sequences + j``.
        token: Its id.
        logprob: Nats, under the unchanged model; NaN when not asked for.
        stop: Why the row ends with this token, if it does.
    """

    row: int
    token: int
    logprob: float
    stop: Stop | None


class SamplingStrategy(Protocol):
    """Chooses the next token of each row."""

    def choose(self, scores_BV: Tensor, step: int) -> Tensor:
        """Return the (B,) int64 ids of the chosen tokens.

        Args:
            scores_BV: (B, V) scores, minus infinity at tokens that cannot be chosen.
            step: Number of tokens that each row has got so far.

        Raises:
            XLMError: The scores of a row are not finite.
        """

    def reorder(self, rows_R: Tensor) -> None:
        """Continue row i from the state of row ``rows_R[i]``."""


class Greedy:
    """Chooses the best token of each row."""

    def choose(self, scores_BV: Tensor, step: int) -> Tensor:
        """Return the (B,) int64 ids of the best tokens."""
        tokens_B = argmax(scores_BV)  # that of NaN where there is one
        check_finite(scores_BV.gather(1, tokens_B[:, None])[:, 0])
        return tokens_B

    def reorder(self, rows_R: Tensor) -> None:
        """Do nothing: there is no state."""


class Sample:
    """Draws a token of each row from the softmax of its scores.

    Args:
        processors: Processors that shape the distribution.
        seeds: One seed for each row.
        steps: The most tokens S of a row.
        device: Device of the scores.
    """

    def __init__(self, processors: LogitsProcessor, seeds: Sequence[int], steps: int, device: torch.device) -> None:
        self._processors = processors
        # From 0 to below 1, each row from its own seed; drawn on the CPU, so that all devices draw the same.
        rows = [torch.rand(steps, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds]
        self._uniform_BS = torch.stack(rows).to(device)

    def choose(self, scores_BV: Tensor, step: int) -> Tensor:
        """Return the (B,) int64 ids of the drawn tokens."""
        check_finite(scores_BV.amax(-1))
        return draw(self._processors(scores_BV, step), self._uniform_BS[:, step])

    def reorder(self, rows_R: Tensor) -> None:
        """Continue row i with the random numbers of row ``rows_R[i]``."""
        self._uniform_BS = self._uniform_BS[rows_R]


def strategy_for(
    options: DecodingOptions, *, seeds: Sequence[int], steps: int, device: torch.device
) -> SamplingStrategy:
    """Return the strategy that the options ask for.

    Args:
        options: Checked options.
        seeds: One seed for each row of the result; unused without ``do_sample``.
        steps: The most tokens of a row.
        device: Device of the scores.
    """
    return Sample(warpers(options), seeds, steps, device) if options.do_sample else Greedy()


def generate_tokens(
    state: DecoderState, prompts: Prompts, options: DecodingOptions, *, seeds: Sequence[int], with_logprobs: bool
) -> Iterator[list[GeneratedToken]]:
    """Yield the new token of every row that is still running, step by step until none is.

    Each step must run under ``torch.inference_mode()``.

    Args:
        state: A new state with a row for each prompt.
        prompts: Checked prompts.
        options: Checked options, with ``num_beams`` 1.
        seeds: One seed for each row of the result; unused without ``do_sample``.
        with_logprobs: Whether to compute the log-probabilities.
    """
    logits_BV = state.prefill(prompts.inputs)
    device, vocab_size = logits_BV.device, logits_BV.shape[1]
    processors = constraints(options, prompts.inputs.input_ids, prompts.inputs.valid, vocab_size=vocab_size)
    n = options.num_return_sequences
    limits = [limit for limit in prompts.limits for _ in range(n)]
    langs_BS = prompts.new_langs
    strategy = strategy_for(options, seeds=seeds, steps=max(limits).tokens, device=device)
    if n > 1:
        rows_R = torch.arange(len(prompts.limits), device=device).repeat_interleave(n)
        state.reorder(rows_R)
        processors.reorder(rows_R)
        logits_BV = logits_BV[rows_R]
        langs_BS = None if langs_BS is None else langs_BS[rows_R]
    rows: list[int | None] = list(range(len(limits)))  # rows of the result, by row of the batch; None: it has ended
    step = 0
    while True:
        logits_BV = at_least_float32(logits_BV)
        normaliser_B = logits_BV.logsumexp(-1) if with_logprobs else None
        if normaliser_B is not None:
            check_finite(normaliser_B)
        tokens_B = strategy.choose(processors(logits_BV, step), step)
        processors.add(tokens_B)
        tokens = tokens_B.tolist()
        if normaliser_B is None:
            logprobs = [float("nan")] * len(tokens)
        else:
            # The processors have written into the logits only at tokens that were then not chosen.
            logprobs = (logits_BV.gather(1, tokens_B[:, None])[:, 0] - normaliser_B).tolist()
        step += 1
        generated = []
        for index, row in enumerate(rows):
            if row is not None:
                stop = stop_reason(tokens[index], step, limits[row], options)
                generated.append(GeneratedToken(row, tokens[index], logprobs[index], stop))
                if stop is not None:
                    rows[index] = None
        yield generated
        ended = rows.count(None)
        if ended == len(rows):
            return
        # Dropping rows copies the cache of the others. It pays when they are many. It is necessary when the cache has
        # no room for another token of a row that has ended.
        if 4 * ended >= len(rows) or (ended > 0 and state.longest == state.capacity):
            kept = [index for index, row in enumerate(rows) if row is not None]
            rows = [rows[index] for index in kept]
            kept_R = torch.tensor(kept, device=device)
            state.reorder(kept_R)
            processors.reorder(kept_R)
            strategy.reorder(kept_R)
            tokens_B = tokens_B[kept_R]
            langs_BS = None if langs_BS is None else langs_BS[kept_R]
        logits_BV = state.step(tokens_B, None if langs_BS is None else langs_BS[:, step - 1])


def collect(tokens: Iterable[GeneratedToken], n: int, seeds: Sequence[int]) -> list[Continuation]:
    """Return the continuations, in the order of their rows, of the tokens of all rows in the order of generation.

    Args:
        tokens: All tokens of all rows.
        n: Continuations of each prompt.
        seeds: One seed for each row, or nothing.
    """
    rows: dict[int, list[GeneratedToken]] = {}
    for token in tokens:
        rows.setdefault(token.row, []).append(token)
    return [
        Continuation(
            prompt=row // n,
            tokens=tuple(token.token for token in generated),
            logprobs=tuple(token.logprob for token in generated),
            stop=_stop_of(generated[-1]),
            seed=seeds[row] if seeds else None,
        )
        for row, generated in sorted(rows.items())
    ]


def _stop_of(last: GeneratedToken) -> Stop:
    assert last.stop is not None
    return last.stop


def argmax(scores_BV: Tensor) -> Tensor:
    """Return the id of each row's highest score, (B,) int64; that of NaN where there is one.

    On a CPU torch's own takes four times as long over a large vocabulary, since it carries the index of each number
    along. This one finds the highest score of each block first, then the index inside the best block.
    """
    V = scores_BV.shape[1]
    if scores_BV.device.type != "cpu" or V <= 2 * _ARGMAX_WIDTH:
        return scores_BV.argmax(1)
    whole = (V - 1) // _ARGMAX_WIDTH * _ARGMAX_WIDTH
    blocks_BKW = scores_BV[:, :whole].view(len(scores_BV), -1, _ARGMAX_WIDTH)
    highest_BK = torch.cat([blocks_BKW.amax(2), scores_BV[:, whole:].amax(1, keepdim=True)], 1)
    ids_BW = (highest_BK.argmax(1, keepdim=True) * _ARGMAX_WIDTH + torch.arange(_ARGMAX_WIDTH)).clamp_max(V - 1)
    return ids_BW.gather(1, scores_BV.gather(1, ids_BW).argmax(1, keepdim=True))[:, 0]


def draw(scores_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Return one token a row, (B,) int64, drawn from the softmax of its scores.

    The distribution function is inverted, so a row's draw depends on its own scores and its own number alone.

    Args:
        scores_BV: (B, V) scores, minus infinity at tokens that must not be drawn.
        uniform_B: (B,) float64, from 0 to below 1.
    """
    # In float64 a token's interval is as wide as its probability also at the far end of the sum.
    cumulated_BV = scores_BV.softmax(-1).cumsum(-1, dtype=torch.float64)
    total_B1 = cumulated_BV[:, -1:]
    # Stay below the total: no token lies above whatever rounding makes of it.
    point_B1 = torch.minimum(uniform_B[:, None] * total_B1, torch.nextafter(total_B1, torch.zeros_like(total_B1)))
    return torch.searchsorted(cumulated_BV, point_B1, right=True)[:, 0]
