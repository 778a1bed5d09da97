"""A decoding step captured as a CUDA graph.

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
"""Runs before the capture, in which libraries choose their kernels and allocate what they keep."""

Step = Callable[[Tensor, "Tensor | None"], Tensor]
"""Takes one token a row (B,) and its languages (B,), or ``None``, into the cache, and returns logits (B, V)."""


class GraphCapture:
    """Captures work on one device, always on one stream: libraries keep memory for every stream that they see.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with torch.cuda.device(device):
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def capture(self, work: Callable[[], Tensor], undo: Callable[[], None]) -> tuple[Callable[[], None], Tensor]:
        """Return a function that replays the work on the same memory, and the tensor that will hold the result.

        Args:
            work: The work to capture.
            undo: Undoes what the work did to its inputs.
        """
        graph = torch.cuda.CUDAGraph()
        # With its cache, autocast would cast weights outside of the capture, and free them when it ends.
        kind = self._device.type
        without_cache = torch.autocast(
            kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), cache_enabled=False
        )
        # Entering the current stream once more brings it back even after a failed capture.
        with torch.cuda.device(self._device), without_cache, torch.cuda.stream(torch.cuda.current_stream()):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(_WARM_UPS):
                    work()
                    undo()
            torch.cuda.current_stream().wait_stream(self._stream)
            # "thread_local": other threads may use the device meanwhile. The capture begins outside inference mode,
            # because tensors that torch makes for itself in that mode could not be written to outside of it.
            with (
                torch.inference_mode(False),
                torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
                torch.inference_mode(),
            ):
                result = work()
        return graph.replay, result


class CapturedStep:
    """A captured step; called like the step itself, for the same rows in the same memory of the cache.

    Args:
        capture: The capture of the model's device.
        step: Its shapes and kernels are the same at every call, and nothing in it waits for the device.
        cache: Cache that the step writes into, its shapes fixed. The capture leaves it unchanged.
        tokens_B: Tokens of the first call.
        langs_B: Languages of the first call.
    """

    def __init__(
        self, capture: GraphCapture, step: Step, cache: XLMCache, tokens_B: Tensor, langs_B: Tensor | None
    ) -> None:
        self._cache = cache
        self._tokens_B = tokens_B.clone()
        self._langs_B = None if langs_B is None else langs_B.clone()
        lengths_B, longest = cache.lengths.clone(), cache.longest

        def undo() -> None:
            cache.lengths.copy_(lengths_B)
            cache.longest = longest

        self._replay, self._logits_BV = capture.capture(lambda: step(self._tokens_B, self._langs_B), undo)
        undo()

    def __call__(self, tokens_B: Tensor, langs_B: Tensor | None) -> Tensor:
        """Return (B, V) logits, in memory that the next call overwrites."""
        self._tokens_B.copy_(tokens_B)
        if self._langs_B is not None and langs_B is not None:
            self._langs_B.copy_(langs_B)
        self._replay()
        self._cache.longest += 1  # the graph itself advances the lengths on the device
        return self._logits_BV
