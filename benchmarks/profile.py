"""Where the time of a work goes: operations of torch by their own time, and what matrix products reach."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.ctranslate2_peer import Work, open_xlm, sentences_of, weight_type
from benchmarks.forward import forward_operations, product_weights
from benchmarks.generation import BYTES_PER_WEIGHT
from benchmarks.hardware import matrix_peak, memory_bandwidth
from benchmarks.models import SIZES, scale_embeddings
from benchmarks.report import Measurement, Report, machine_facts
from benchmarks.training import SETTINGS, our_step
from xlm.model.lm import XLMWithLMHeadModel

_PRODUCTS = ("linear_pointwise", "linear_dynamic", "addmm", "aten::mm")
_SHOWN = 12


def bench_profile(
    scratch: Path, *, work: str, form: str, size: str, rows: int, new_tokens: int, lines: int, rounds: int
) -> Report:
    """Run a random model under torch's profiler.

    Args:
        scratch: A directory for temporary files.
        work: ``"forward"``, ``"score"``, ``"generate"`` or ``"train"``, as in the other benchmarks.
        form: ``"float32"``, ``"packed float32"``, ``"bfloat16"`` or ``"int8"``; training is in float32.
        size: One of ``SIZES``; for training, one of ``SETTINGS``.
        rows: Prompts in a batch.
        new_tokens: New tokens of each prompt.
        lines: Number of sentences to score.
        rounds: How often to run it.
    """
    torch.manual_seed(0)
    run, operations, weights_read = (
        _training(size)
        if work == "train"
        else _inference(scratch, work, form, size, rows=rows, new_tokens=new_tokens, lines=lines)  # type: ignore[arg-type]
    )
    run()
    walls: list[float] = []
    times: dict[str, list[float]] = {}
    for round_ in range(rounds):
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            start = time.perf_counter()
            run()
            walls.append(time.perf_counter() - start)
        for event in profiler.key_averages():
            times.setdefault(event.key, [0.0] * rounds)[round_] = event.self_cpu_time_total / 1e6
    largest = sorted(times, key=lambda name: -sum(times[name]))[:_SHOWN]
    shown = {name: times[name] for name in largest}
    total = [sum(each) for each in zip(*times.values(), strict=True)]
    shown["other operations"] = [
        all_ - sum(values[round_] for values in shown.values()) for round_, all_ in enumerate(total)
    ]
    shown["Python between operations"] = [max(0.0, wall - all_) for wall, all_ in zip(walls, total, strict=True)]
    products = [
        sum(values[round_] for name, values in times.items() if any(each in name for each in _PRODUCTS))
        for round_ in range(rounds)
    ]
    figures = [Measurement(name="whole work", unit="ms", values=tuple(1000 * wall for wall in walls))]
    figures += [
        Measurement(
            name=name,
            unit="% of the time",
            values=tuple(100 * seconds / wall for seconds, wall in zip(values, walls, strict=True)),
        )
        for name, values in shown.items()
    ]
    if weights_read:
        figures += [
            Measurement(
                name="weights read by products", unit="GB/s", values=tuple(weights_read / each for each in products)
            ),
            Measurement(name="reading memory", unit="GB/s", values=(memory_bandwidth(),)),
        ]
    else:
        figures += [
            Measurement(name="speed of products", unit="GFLOP/s", values=tuple(operations / each for each in products)),
            Measurement(name="matrix product, float32", unit="GFLOP/s", values=(matrix_peak(torch.float32),)),
        ]
    return Report(
        title=f"profile of {work}, {form}, {size} size, {rounds} rounds"
        + (f", {rows} rows, {new_tokens} new tokens" if work == "generate" else ""),
        machine={**machine_facts(("torch",)), "threads": str(torch.get_num_threads())},
        measurements=tuple(figures),
        targets=(),
    )


def _inference(
    scratch: Path, work: Work, form: str, size: str, *, rows: int, new_tokens: int, lines: int
) -> tuple[Callable[[], Any], float, float]:
    """Return the work, the billions of operations of its products, and the GB of weights that one prompt reads."""
    model = XLMWithLMHeadModel(SIZES[size]).eval()
    scale_embeddings(model)
    model.save_pretrained(scratch / "model")
    config = model.config
    sentences = sentences_of(work, config, rows=rows, lines=lines)
    run = open_xlm(str(scratch / "model"), work, form, torch.get_num_threads())
    tokens = rows * new_tokens if work == "generate" else sum(map(len, sentences))
    weights = product_weights(config)
    read = weights * BYTES_PER_WEIGHT[weight_type(form)] * new_tokens / 1e9 if work == "generate" and rows == 1 else 0.0
    return partial(run, sentences, new_tokens), 2 * weights * tokens / 1e9, read


def _training(size: str) -> tuple[Callable[[], Any], float, float]:
    config, B, T = SETTINGS[size]
    model = XLMWithLMHeadModel(config.replace(dropout=0.0, attention_dropout=0.0)).train()
    step = our_step(model, torch.randint(14, config.vocab_size, (B, T)), "float32")
    return partial(step, 0), 3 * forward_operations(config, B, T) / 1e9, 0.0
