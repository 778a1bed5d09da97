"""Speed of matrix products by each library that torch includes, in the shapes of the published model.

Shapes: N rows, K input width, M output width.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.report import Measurement, Report, machine_facts
from xlm.inference.packed_linear import Float16Linear, Float32Linear, Int8Linear, VnniInt8Linear, multiplies_int8
from xlm.model.linear import linear

SHAPES = ((1024, 4096), (4096, 1024), (1024, 64699))
"""Input and output width of the widest matrices: those of the feed-forward part, and the head."""

_CACHE_ELEMENTS = 1 << 24


def bench_products(*, rows: tuple[int, ...], rounds: int, shapes: tuple[tuple[int, int], ...] = SHAPES) -> Report:
    """Multiply random rows by random weights with each method, in turn.

    Before each product, memory larger than the processor's caches is written, so that weights come from memory, as
    they do in a model.

    Args:
        rows: Numbers of rows N.
        rounds: How often to measure each product; the report holds the fastest.
        shapes: Input and output widths.
    """
    measurements = []
    cache = torch.zeros(_CACHE_ELEMENTS)
    for K, M in shapes:
        generator = torch.Generator().manual_seed(0)
        weight_MK, bias_M = torch.randn(M, K, generator=generator), torch.randn(M, generator=generator)
        methods = _methods(weight_MK, bias_M)
        for N in rows:
            x_NK = torch.randn(N, K, generator=generator)
            seconds: dict[str, list[float]] = {name: [] for name in methods}
            with torch.inference_mode():
                for round_ in range(rounds + 1):  # the first round is a warm-up
                    for name, method in methods.items():
                        cache.add_(1)
                        start = time.process_time()
                        method(x_NK)
                        if round_ > 0:
                            seconds[name].append(time.process_time() - start)
            measurements += [
                Measurement(
                    name=f"{N} x {K} x {M}, {name}", unit="GFLOP/s", values=(2e-9 * N * K * M / max(min(taken), 1e-9),)
                )
                for name, taken in seconds.items()
            ]
    return Report(
        title=f"matrix products, by processor time, fastest of {rounds}",
        machine={**machine_facts(("torch",)), "threads": str(torch.get_num_threads())},
        measurements=tuple(measurements),
        targets=(),
    )


def _methods(weight_MK: Tensor, bias_M: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    methods: dict[str, Callable[[Tensor], Tensor]] = {
        "float32, torch": lambda x_NK: F.linear(x_NK, weight_MK, bias_M),
        "float32, xlm": lambda x_NK: linear(x_NK, weight_MK, bias_M),
        "float32, packed": Float32Linear(weight_MK, bias_M),
    }
    if torch.backends.quantized.engine in ("x86", "fbgemm"):
        methods["float16, FBGEMM"] = Float16Linear(weight_MK, bias_M)
        methods["int8, FBGEMM"] = Int8Linear(weight_MK, bias_M)
        if multiplies_int8():
            methods["int8, oneDNN"] = VnniInt8Linear(weight_MK, bias_M)
    return methods
