"""Times every way torch has of multiplying one row with the head's matrix on a CPU; where docs/speed.md is from.

    python scripts/try_one_row_kernels.py [--threads N] [--rows N]

Each figure is the fastest of 25 runs; the error is against float64, relative to the output's norm.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xlm.bench.limits import reading_bandwidth
from xlm.bench.report import machine_facts
from xlm.model.packed_linear import TYPICAL_ROWS

V, D = 64_699, 1024
RUNS = 25


def ways(x: Tensor, weight: Tensor, bias: Tensor) -> dict[str, tuple[int, Callable[[], Any]]]:
    """Name, bytes a weight, and what computes ``x @ weight.T + bias``, rounded or not."""
    transposed, half = weight.t().contiguous(), weight.bfloat16()
    scale = weight.abs().amax(1) / 127
    int8 = (weight / scale[:, None]).round().to(torch.int8)
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight, TYPICAL_ROWS)
    packed_float16 = torch.ops.quantized.linear_prepack_fp16(weight, bias)
    zeros = torch.zeros(len(weight), dtype=torch.int64)
    quantized = torch.quantize_per_channel(weight, scale, zeros, 0, torch.qint8)
    found: dict[str, tuple[int, Callable[[], Any]]] = {
        "float32, F.linear": (4, lambda: F.linear(x, weight, bias)),
        "float32, transposed addmm": (4, lambda: torch.addmm(bias, x, transposed)),
        "float32, oneDNN": (4, lambda: torch.ops.mkldnn._linear_pointwise(x, laid_out, bias, "none", [], "")),
        "bfloat16, F.linear": (2, lambda: F.linear(x.bfloat16(), half, bias.bfloat16())),
        "float16, FBGEMM": (2, lambda: torch.ops.quantized.linear_dynamic_fp16(x, packed_float16)),
        "int8, _weight_int8pack_mm": (
            1,
            lambda: torch._weight_int8pack_mm(x.bfloat16(), int8, scale.bfloat16()).float() + bias,
        ),
    }
    for engine in ("fbgemm", "onednn"):
        if engine in torch.backends.quantized.supported_engines:
            torch.backends.quantized.engine = engine
            packed = torch.ops.quantized.linear_prepack(quantized, bias)
            found[f"int8, {engine} with 7-bit rows"] = (
                1,
                partial(torch.ops.quantized.linear_dynamic, x, packed, True),
            )
    for name, matrix, size in (("float32", weight, 4), ("bfloat16", half, 2)):
        compiled = torch.compile(_row_by_row, dynamic=False)
        found[f"{name}, torch.compile"] = (size, partial(compiled, matrix, x, bias))
    return found


def _row_by_row(weight: Tensor, x: Tensor, bias: Tensor) -> Tensor:
    return (x[:, None, :] * weight.float()).sum(-1) + bias


def fastest(work: Callable[[], Any]) -> float:
    """Seconds of the fastest run after two that do not count."""
    work(), work()
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rows", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    weight, bias, x = torch.randn(V, D) * D**-0.5, torch.randn(V), torch.randn(arguments.rows, D)
    expected = F.linear(x.double(), weight.double(), bias.double())
    for key, value in machine_facts(("torch",)).items():
        print(f"{key}: {value}")
    print(f"reading memory: {reading_bandwidth():.1f} GB/s")
    print(f"{'way':<30} {'ms':>7} {'GB/s':>6} {'error':>9}")
    with torch.inference_mode():
        for name, (size, work) in ways(x, weight, bias).items():
            seconds = fastest(work)
            error = float((work().double() - expected).norm() / expected.norm())
            print(f"{name:<30} {seconds * 1e3:7.2f} {size * V * D / seconds / 1e9:6.1f} {error:9.1e}")


if __name__ == "__main__":
    main()
