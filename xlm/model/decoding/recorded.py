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


class Recorder:
    """Records work on one device, on one stream: libraries keep memory for every stream that they see.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with torch.cuda.device(device):
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def record(self, work: Callable[[], Tensor], undo: Callable[[], None]) -> tuple[Callable[[], None], Tensor]:
        """What does the work again, on the same memory, and where its result then is.

        Args:
            work: What to record.
            undo: Takes back what the work did to its own inputs.
        """
        graph = torch.cuda.CUDAGraph()
        # Without its cache, autocast casts the weights within the recording; what it caches it frees when it ends.
        kind = self._device.type
        without_cache = torch.autocast(
            kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), cache_enabled=False
        )
        # Entered once more, the caller's stream comes back even after a recording that failed.
        with torch.cuda.device(self._device), without_cache, torch.cuda.stream(torch.cuda.current_stream()):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(_WARM_UPS):
                    work()
                    undo()
            torch.cuda.current_stream().wait_stream(self._stream)
            # What other threads do on the device meanwhile does not spoil the recording. It begins outside inference
            # mode, under which torch would make tensors of its own that nobody could write to outside of it.
            with (
                torch.inference_mode(False),
                torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
                torch.inference_mode(),
            ):
                result = work()
        return graph.replay, result


class RecordedStep:
    """Called like the step that it records, for the same rows in the same memory of the cache.

    Args:
        recorder: Of the model's device.
        step: Its shapes and kernels are the same at every call, and nothing in it waits for the device.
        cache: What the step writes into, its shapes fixed; as if untouched after the recording.
        tokens_B: Of the first call.
        langs_B: Of the first call.
    """

    def __init__(
        self, recorder: Recorder, step: Step, cache: XLMCache, tokens_B: Tensor, langs_B: Tensor | None
    ) -> None:
        self._cache = cache
        self._tokens_B = tokens_B.clone()
        self._langs_B = None if langs_B is None else langs_B.clone()
        lengths_B, longest = cache.lengths.clone(), cache.longest

        def forget() -> None:
            cache.lengths.copy_(lengths_B)
            cache.longest = longest

        self._replay, self._logits_BV = recorder.record(lambda: step(self._tokens_B, self._langs_B), forget)
        forget()

    def __call__(self, tokens_B: Tensor, langs_B: Tensor | None) -> Tensor:
        """(B, V) logits, in memory that the next call overwrites."""
        self._tokens_B.copy_(tokens_B)
        if self._langs_B is not None and langs_B is not None:
            self._langs_B.copy_(langs_B)
        self._replay()
        self._cache.longest += 1  # the lengths on the device are the recording's own
        return self._logits_BV
