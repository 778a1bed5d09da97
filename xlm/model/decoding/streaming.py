"""Generation of one continuation token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch

from xlm.errors import InputError, XLMError
from xlm.model.decoding.options import DecodingOptions
from xlm.model.decoding.prompts import Prompts
from xlm.model.decoding.result import Continuation
from xlm.model.decoding.sampling import GeneratedToken, collect, generate_tokens
from xlm.model.decoding.state import DecoderState


class TokenStream(Iterator[int]):
    """An iterator that computes the new tokens of one prompt on demand.

    Attributes:
        continuation: The whole continuation, available once its last token has been returned; ``None`` until then.

    Args:
        state: A new state for the prompt.
        prompts: One checked prompt.
        options: Checked options.
        eval_mode: Returns a context in which the model is in evaluation mode.
    """

    def __init__(
        self,
        state: DecoderState,
        prompts: Prompts,
        options: DecodingOptions,
        *,
        eval_mode: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.continuation: Continuation | None = None
        self._eval_mode = eval_mode
        self._seeds = options.row_seeds(1) if options.do_sample else ()
        self._generated: list[GeneratedToken] = []
        self._interruption: BaseException | None = None
        self._steps = generate_tokens(state, prompts, options, seeds=self._seeds, with_logprobs=True)

    def __next__(self) -> int:
        if self.continuation is not None:
            raise StopIteration
        if self._interruption is not None:
            raise XLMError(
                "the stream was interrupted and cannot continue",
                where="stream",
                found=repr(self._interruption),
                remedy="start a new stream",
            ) from self._interruption
        try:
            # Enter these modes for each token, so that the caller's code between two tokens does not run in them.
            with self._eval_mode(), torch.inference_mode():
                (token,) = next(self._steps)
        except BaseException as error:
            # The error has ended the generator of steps. Record it, or the next call would look like the end of the
            # continuation.
            self._interruption = error
            raise
        self._generated.append(token)
        if token.stop is not None:
            (self.continuation,) = collect(self._generated, 1, self._seeds)
        return token.token


def check_streamable(prompts: Prompts, options: DecodingOptions) -> None:
    """Raise ``InputError`` unless there is one prompt with one continuation."""
    if len(prompts.lengths) != 1 or options.num_beams > 1 or options.num_return_sequences > 1:
        raise InputError(
            "only a single continuation can be streamed",
            where="input_ids, num_beams, num_return_sequences",
            found=f"{len(prompts.lengths)} prompts, {options.num_beams} beams, "
            f"{options.num_return_sequences} sequences",
            expected="one of each, since the best of several beams is known only at the end",
        )
