"""Greedy decoding and sampling: one token a row and step.

Shapes: B rows, V vocabulary, S new tokens at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from xlm.model.attention import at_least_float32
from xlm.model.decoding.argmax import argmax
from xlm.model.decoding.finite import check_finite
from xlm.model.decoding.options import DecodingOptions
from xlm.model.decoding.prompts import Prompts
from xlm.model.decoding.result import Stop, stop_of
from xlm.model.decoding.stepper import Stepper
from xlm.model.decoding.warping import Constraints, draw, sampling_scores


class Produced(NamedTuple):
    """One new token."""

    row: int
    """Of the result: sequence j of prompt i is row ``i * num_return_sequences + j``."""
    token: int
    logprob: float
    """Nats, under the model as it is; NaN when not asked for."""
    stop: Stop | None
    """Why the row ends with this token, if it does."""


def sequential(
    stepper: Stepper, prompts: Prompts, options: DecodingOptions, *, seeds: Sequence[int], with_logprobs: bool
) -> Iterator[list[Produced]]:
    """Yields the new token of every row that still runs, step by step until none does.

    Each step must run under ``torch.inference_mode()``.

    Args:
        stepper: Fresh, with a row for each prompt.
        prompts: Checked.
        options: Checked, with ``num_beams`` 1.
        seeds: One for each row of the result; unused without ``do_sample``.
        with_logprobs: Whether to compute the log-probabilities.
    """
    logits_BV = stepper.prefill(prompts.inputs)
    device, vocab_size = logits_BV.device, logits_BV.shape[1]
    constraints = Constraints(options, prompts.inputs.input_ids, prompts.inputs.valid, vocab_size=vocab_size)
    n = options.num_return_sequences
    limits = [limit for limit in prompts.limits for _ in range(n)]
    langs_BS = prompts.new_langs
    uniform_BS = _uniform(seeds, max(limits), device) if options.do_sample else None
    if n > 1:
        rows_R = torch.arange(len(prompts.limits), device=device).repeat_interleave(n)
        stepper.reorder(rows_R)
        constraints.reorder(rows_R)
        logits_BV = logits_BV[rows_R]
        langs_BS = None if langs_BS is None else langs_BS[rows_R]
    rows: list[int | None] = list(range(len(limits)))  # of the result, by row of the batch; None: it has ended
    step = 0
    while True:
        logits_BV = at_least_float32(logits_BV)
        normaliser_B = logits_BV.logsumexp(-1) if with_logprobs else None
        scores_BV = constraints.apply(logits_BV, step)
        if uniform_BS is None:
            tokens_B = argmax(scores_BV)  # of NaN, where there is one
            check_finite(scores_BV.gather(1, tokens_B[:, None])[:, 0])
        else:
            check_finite(scores_BV.amax(-1) if normaliser_B is None else normaliser_B)
            tokens_B = draw(sampling_scores(scores_BV, options), uniform_BS[:, step])
        constraints.add(tokens_B)
        tokens = tokens_B.tolist()
        if normaliser_B is None:
            logprobs = [float("nan")] * len(tokens)
        else:
            # The constraints have written into the logits only at tokens that were then not chosen.
            logprobs = (logits_BV.gather(1, tokens_B[:, None])[:, 0] - normaliser_B).tolist()
        step += 1
        produced = []
        for place, row in enumerate(rows):
            if row is not None:
                stop = stop_of(tokens[place], step, limits[row], options)
                produced.append(Produced(row, tokens[place], logprobs[place], stop))
                if stop is not None:
                    rows[place] = None
        yield produced
        ended = rows.count(None)
        if ended == len(rows):
            return
        # Leaving rows out copies what the cache holds of the others. It pays when they are many, and it must be when
        # a row that has ended would not fit any longer.
        if 4 * ended >= len(rows) or (ended > 0 and stepper.longest == stepper.capacity):
            kept = [place for place, row in enumerate(rows) if row is not None]
            rows = [rows[place] for place in kept]
            kept_R = torch.tensor(kept, device=device)
            stepper.reorder(kept_R)
            constraints.reorder(kept_R)
            tokens_B = tokens_B[kept_R]
            langs_BS = None if langs_BS is None else langs_BS[kept_R]
            uniform_BS = None if uniform_BS is None else uniform_BS[kept_R]
        logits_BV = stepper.step(tokens_B, None if langs_BS is None else langs_BS[:, step - 1])


def _uniform(seeds: Sequence[int], steps: int, device: torch.device) -> Tensor:
    """(B, S) float64 from 0 to below 1, each row from its own seed; drawn on the CPU, alike for every device."""
    rows = [torch.rand(steps, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds]
    return torch.stack(rows).to(device)
