"""Greedy decoding and sampling: one new token per row and step.

A ``SamplingStrategy`` chooses the next token from the scores. To add a strategy, add a class here, a line in
``strategy_for``, and an option that selects it in ``DecodingOptions`` (``options.py``).

Shapes: B rows, V vocabulary, S maximum number of new tokens, K blocks of W words.
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
        row: Row of the result; sequence j of prompt i is row ``i * num_return_sequences + j``.
        token: Id of the token.
        logprob: Log-probability in nats under the unchanged model; NaN unless requested.
        stop: Why the row ends with this token; ``None`` if it continues.
    """

    row: int
    token: int
    logprob: float
    stop: Stop | None


class SamplingStrategy(Protocol):
    """A way to choose the next token of each row."""

    def choose(self, scores_BV: Tensor, step: int) -> Tensor:
        """Return the (B,) int64 ids of the chosen tokens.

        Args:
            scores_BV: (B, V) scores, minus infinity at tokens that cannot be chosen.
            step: Number of new tokens in each row so far.

        Raises:
            XLMError: The scores of a row are not finite.
        """

    def reorder(self, rows_R: Tensor) -> None:
        """Continue row i from the state of row ``rows_R[i]``."""


class Greedy:
    """Greedy decoding: the best token of each row."""

    def choose(self, scores_BV: Tensor, step: int) -> Tensor:
        """Return the (B,) int64 ids of the best tokens."""
        tokens_B = argmax(scores_BV)  # NaN counts as the highest score
        check_finite(scores_BV.gather(1, tokens_B[:, None])[:, 0])
        return tokens_B

    def reorder(self, rows_R: Tensor) -> None:
        """Do nothing: greedy decoding has no state."""


class Sample:
    """Sampling: a token of each row, drawn from the softmax of its scores.

    Args:
        processors: Processors that shape the distribution.
        seeds: One seed for each row.
        steps: Maximum number of new tokens S.
        device: Device of the scores.
    """

    def __init__(self, processors: LogitsProcessor, seeds: Sequence[int], steps: int, device: torch.device) -> None:
        self._processors = processors
        # Draw random numbers, uniform in [0, 1), from each row's own seed. Draw them on the CPU, so that they do not
        # depend on the device.
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
    """Return the strategy that the options select.

    Args:
        options: Checked options.
        seeds: One seed for each row of the result; unused without ``do_sample``.
        steps: Maximum number of new tokens.
        device: Device of the scores.
    """
    return Sample(warpers(options), seeds, steps, device) if options.do_sample else Greedy()


def generate_tokens(
    state: DecoderState, prompts: Prompts, options: DecodingOptions, *, seeds: Sequence[int], with_logprobs: bool
) -> Iterator[list[GeneratedToken]]:
    """Yield the new tokens of all running rows, step by step, until every row has ended.

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
    processors = constraints(options, prompts.ids, prompts.valid_ids, vocab_size=vocab_size)
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
    rows: list[int | None] = list(range(len(limits)))  # for each batch row: its row in the result, or None once ended
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
            # The processors may have overwritten logits, but only those of tokens that cannot be chosen.
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
        # Dropping ended rows copies the cache of the other rows. It pays when many rows have ended. It is necessary
        # when the cache has no room for another token of an ended row.
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
    """Return the continuations, in the order of their rows.

    Args:
        tokens: The tokens of all rows, in the order of generation.
        n: Number of continuations per prompt.
        seeds: One seed for each row; empty if nothing was sampled.
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
    """Return the id of each row's highest score, (B,) int64; NaN counts as the highest score.

    On a CPU, ``torch.argmax`` takes four times as long over a large vocabulary, because it tracks the index of each
    number. This function finds the highest score of each block first, then the index inside the best block.
    """
    V = scores_BV.shape[1]
    if scores_BV.device.type != "cpu" or V <= 2 * _ARGMAX_WIDTH:
        return scores_BV.argmax(1)
    last_block = (V - 1) // _ARGMAX_WIDTH * _ARGMAX_WIDTH
    blocks_BKW = scores_BV[:, :last_block].view(len(scores_BV), -1, _ARGMAX_WIDTH)
    highest_BK = torch.cat([blocks_BKW.amax(2), scores_BV[:, last_block:].amax(1, keepdim=True)], 1)
    ids_BW = (highest_BK.argmax(1, keepdim=True) * _ARGMAX_WIDTH + torch.arange(_ARGMAX_WIDTH)).clamp_max(V - 1)
    return ids_BW.gather(1, scores_BV.gather(1, ids_BW).argmax(1, keepdim=True))[:, 0]


def draw(scores_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """Return one token per row, (B,) int64, drawn from the softmax of its scores.

    The cumulative distribution is inverted, so a row's token depends only on the row's scores and its random number.

    Args:
        scores_BV: (B, V) scores, minus infinity at tokens that must not be drawn.
        uniform_B: (B,) float64 numbers in [0, 1).
    """
    # In float64, a token's interval is as wide as its probability even near the end of the cumulative sum.
    cumulated_BV = scores_BV.softmax(-1).cumsum(-1, dtype=torch.float64)
    total_B1 = cumulated_BV[:, -1:]
    # Rounding must not move the point to the total, because no token lies above the total.
    point_B1 = torch.minimum(uniform_B[:, None] * total_B1, torch.nextafter(total_B1, torch.zeros_like(total_B1)))
    return torch.searchsorted(cumulated_BV, point_B1, right=True)[:, 0]
