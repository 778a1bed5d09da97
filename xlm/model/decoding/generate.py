"""From prompts to continuations: all at once, or as a stream.

Shapes: B prompts, T positions, R rows of the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from xlm.errors import InputError, XLMError
from xlm.model.decoding.beam import beam_search
from xlm.model.decoding.options import DecodingOptions
from xlm.model.decoding.prompts import Prompts
from xlm.model.decoding.result import Continuation, Stop
from xlm.model.decoding.sequential import Produced, sequential
from xlm.model.decoding.stepper import Stepper
from xlm.model.modes import evaluating
from xlm.model.network import Network


def continue_prompts(
    model: Network, prompts: Prompts, options: DecodingOptions, *, with_logprobs: bool = True
) -> list[Continuation]:
    """The continuations of each prompt, ``num_return_sequences`` a prompt, best first when they are beams.

    Args:
        model: A causal model, in whatever mode; dropout is off.
        prompts: Checked, for this model.
        options: Checked, for this model.
        with_logprobs: False spares the log-probabilities of greedy decoding and sampling, which then are NaN.
    """
    n = options.num_return_sequences
    with evaluating(model), torch.inference_mode():
        stepper = _stepper(model, prompts, options)
        if options.num_beams > 1:
            return [best for beams in beam_search(stepper, prompts, options) for best in beams[:n]]
        seeds = options.row_seeds(len(prompts.lengths) * n) if options.do_sample else ()
        steps = sequential(stepper, prompts, options, seeds=seeds, with_logprobs=with_logprobs)
        return collected((token for step in steps for token in step), n, seeds)


def _stepper(model: Network, prompts: Prompts, options: DecodingOptions) -> Stepper:
    return Stepper(model, rows=len(prompts.lengths), capacity=prompts.capacity, cuda_graphs=options.cuda_graphs)


def collected(tokens: Iterable[Produced], n: int, seeds: tuple[int, ...]) -> list[Continuation]:
    """Continuations by row, of the tokens of all rows in the order in which they came."""
    rows: dict[int, list[Produced]] = {}
    for token in tokens:
        rows.setdefault(token.row, []).append(token)
    return [
        Continuation(
            prompt=row // n,
            tokens=tuple(token.token for token in produced),
            logprobs=tuple(token.logprob for token in produced),
            stop=_stop(produced[-1]),
            seed=seeds[row] if seeds else None,
        )
        for row, produced in sorted(rows.items())
    ]


def _stop(last: Produced) -> Stop:
    assert last.stop is not None
    return last.stop


def with_prompts(prompts: Prompts, continuations: list[Continuation], *, pad_id: int) -> Tensor:
    """(R, T) int64, each prompt with its continuation, padded on the right, on the prompts' device."""
    ids = prompts.inputs.input_ids
    lengths = [prompts.lengths[c.prompt] for c in continuations]
    longest = max(length + len(c.tokens) for length, c in zip(lengths, continuations, strict=True))
    result = torch.full((len(continuations), longest), pad_id)
    on_cpu = ids.cpu()
    for row, (length, c) in enumerate(zip(lengths, continuations, strict=True)):
        result[row, :length] = on_cpu[c.prompt, :length]
        result[row, length : length + len(c.tokens)] = torch.tensor(c.tokens)
    return result.to(ids.device)


class TokenStream(Iterator[int]):
    """The new tokens of one prompt, each computed when it is asked for.

    Attributes:
        continuation: Everything about them, once the last has come; ``None`` before.

    Args:
        model: A causal model, in whatever mode; dropout is off.
        prompts: One, checked, for this model.
        options: Checked, for this model.
    """

    def __init__(self, model: Network, prompts: Prompts, options: DecodingOptions) -> None:
        if len(prompts.lengths) != 1 or options.num_beams > 1 or options.num_return_sequences > 1:
            raise InputError(
                "only a single continuation can be streamed",
                where="input_ids, num_beams, num_return_sequences",
                found=f"{len(prompts.lengths)} prompts, {options.num_beams} beams, "
                f"{options.num_return_sequences} sequences",
                expected="1 each: the best of several beams is known only at the end",
            )
        self.continuation: Continuation | None = None
        self._model = model
        self._seeds = options.row_seeds(1) if options.do_sample else ()
        self._produced: list[Produced] = []
        self._interruption: BaseException | None = None
        with torch.inference_mode():
            stepper = _stepper(model, prompts, options)
        self._steps = sequential(stepper, prompts, options, seeds=self._seeds, with_logprobs=True)

    def __next__(self) -> int:
        if self.continuation is not None:
            raise StopIteration
        if self._interruption is not None:
            raise XLMError(
                "the stream was interrupted, and cannot go on",
                where="stream",
                found=repr(self._interruption),
                remedy="start another one",
            ) from self._interruption
        try:
            # Entered anew for each token: the caller's code between two tokens must not run under either.
            with evaluating(self._model), torch.inference_mode():
                (token,) = next(self._steps)
        except BaseException as error:
            # What is left of the steps would only say that there are no more, as if the last token had come.
            self._interruption = error
            raise
        self._produced.append(token)
        if token.stop is not None:
            (self.continuation,) = collected(self._produced, 1, self._seeds)
        return token.token
