"""A decoding step captured as a CUDA graph.

A step with few rows runs a hundred small kernels, each of which takes longer to launch than to run. A graph launches
them all at once, always on the same memory.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xlm.model.cache import XLMCache

_WARM_UPS = 2
"""Number of runs before the capture. In these runs, libraries choose their kernels and allocate their workspaces."""

Step = Callable[[Tensor, "Tensor | None"], Tensor]
"""Processes one token per row, (B,), with its language, (B,) or ``None``, and returns logits, (B, V)."""


class GraphCapture:
    """Captures work on one device, always on the same stream, since libraries keep memory for each stream.

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
        # With autocast's cache, weights would be cast outside the capture, and freed when autocast ends.
        type_ = self._device.type
        without_cache = torch.autocast(
            type_, torch.get_autocast_dtype(type_), torch.is_autocast_enabled(type_), cache_enabled=False
        )
        # Entering the current stream again restores it even after a failed capture.
        with torch.cuda.device(self._device), without_cache, torch.cuda.stream(torch.cuda.current_stream()):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(_WARM_UPS):
                    work()
                    undo()
            torch.cuda.current_stream().wait_stream(self._stream)
            # "thread_local" lets other threads use the device meanwhile. The capture begins outside inference mode,
            # because torch creates internal tensors during it, which must stay writable outside that mode.
            with (
                torch.inference_mode(False),
                torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
                torch.inference_mode(),
            ):
                result = work()
        return graph.replay, result


class CapturedStep:
    """A captured step; called like the step itself, with the same number of rows and the same cache.

    Args:
        capture: The ``GraphCapture`` of the model's device.
        step: The step; it must use the same shapes and kernels at every call, and must not wait for the device.
        cache: Cache that the step extends, with fixed shapes. The capture leaves it unchanged.
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
        """Return (B, V) logits, which the next call overwrites."""
        self._tokens_B.copy_(tokens_B)
        if self._langs_B is not None and langs_B is not None:
            self._langs_B.copy_(langs_B)
        self._replay()
        self._cache.longest += 1  # the graph updates the lengths on the device itself
        return self._logits_BV
