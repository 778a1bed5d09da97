"""A step of decoding recorded as a CUDA graph.

A step of few rows is a hundred small kernels, each of which takes longer to launch than to run. A graph launches them
all at once, on the same memory every time.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xlm.model.cache import XLMCache

_WARM_UPS = 2
"""Runs before the recording, in which libraries choose their kernels and allocate what they keep."""

Step = Callable[[Tensor, "Tensor | None"], Tensor]
"""One token a row (B,) and its languages (B,), or ``None``, to logits (B, V); takes the tokens into the cache."""


class RecordedStep:
    """Called like the step that it records, for the same rows in the same memory of the cache.

    Args:
        step: Its shapes and kernels are the same at every call, and nothing in it waits for the device.
        cache: What the step writes into, its shapes fixed; as if untouched after the recording.
        tokens_B: Of the first call.
        langs_B: Of the first call.
    """

    def __init__(self, step: Step, cache: XLMCache, tokens_B: Tensor, langs_B: Tensor | None) -> None:
        self._cache = cache
        self._tokens_B = tokens_B.clone()
        self._langs_B = None if langs_B is None else langs_B.clone()
        lengths_B, longest = cache.lengths.clone(), cache.longest

        def forget() -> None:
            cache.lengths.copy_(lengths_B)
            cache.longest = longest

        self._replay, self._logits_BV = record(lambda: step(self._tokens_B, self._langs_B), forget, tokens_B.device)
        forget()

    def __call__(self, tokens_B: Tensor, langs_B: Tensor | None) -> Tensor:
        """(B, V) logits, in memory that the next call overwrites."""
        self._tokens_B.copy_(tokens_B)
        if self._langs_B is not None and langs_B is not None:
            self._langs_B.copy_(langs_B)
        self._replay()
        self._cache.longest += 1  # the lengths on the device are the recording's own
        return self._logits_BV


def record(
    work: Callable[[], Tensor], undo: Callable[[], None], device: torch.device
) -> tuple[Callable[[], None], Tensor]:
    """What does the work again, on the same memory, and where its result then is.

    Args:
        work: What to record.
        undo: Takes back what the work did to its own inputs.
        device: A CUDA device.
    """
    with torch.cuda.device(device):
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(_WARM_UPS):
                work()
                undo()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = work()
    return graph.replay, result
