"""A forward with all logits, beside a peer's and beside the machine's matrix product."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from xlm.bench.limits import matrix_peak, seconds
from xlm.bench.pair import load_pair, write_random_directory
from xlm.bench.report import Bar, BenchReport, Figure, machine_facts, ratio_of_rounds
from xlm.model.config import XLMConfig

B, T = 8, 128
PEAK_LIMITS = {"float32": 0.9, "bfloat16": 0.85}
"""Share of the matrix product's operations a second that a forward should reach, by type."""


def bench_forward(scratch: Path, *, size: str, rounds: int, against: str | None) -> BenchReport:
    """Runs B x T random tokens through a random model, ours in each type, in turn with a peer in float32.

    Args:
        scratch: A directory for the files.
        size: One of ``SIZES``.
        rounds: How often to measure; all alternate.
        against: ``"transformers"`` or nobody.
    """
    pair = load_pair(write_random_directory(scratch, size), against)
    config = pair.ours.config
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(14, config.vocab_size, (B, T), generator=generator)
    langs_BT = torch.ones_like(ids_BT)
    models = {f"xlm {dtype}": pair.ours.for_inference(dtype) for dtype in PEAK_LIMITS}
    times: dict[str, list[float]] = {name: [] for name in (*models, *([against] if against else []))}
    peaks: dict[str, list[float]] = {dtype: [] for dtype in PEAK_LIMITS}
    difference = 0.0
    with torch.inference_mode():
        for _ in range(rounds + 1):  # the first warms up
            for dtype in PEAK_LIMITS:
                peaks[dtype].append(matrix_peak(getattr(torch, dtype)))
            logits_BTV = {}
            for name, model in models.items():
                taken, output = seconds(partial(model, ids_BT, langs=langs_BT))
                times[name].append(taken)
                logits_BTV[name] = output.logits
            if against:
                taken, output = seconds(lambda: pair.theirs(input_ids=ids_BT, langs=langs_BT))
                times[against].append(taken)
                gap = (output.logits - logits_BTV["xlm float32"]).abs().max() / output.logits.abs().max()
                difference = max(difference, float(gap))
            logits_BTV.clear()
    operations = forward_operations(config, B, T) / 1e9
    figures = [Figure(name=name, unit="s", values=tuple(values[1:])) for name, values in times.items()]
    speeds, bars = [], []
    for dtype, limit in PEAK_LIMITS.items():
        peak = Figure(name=f"matrix product, {dtype}", unit="GFLOP/s", values=tuple(peaks[dtype][1:]))
        speed = Figure(
            name=f"xlm {dtype}, speed", unit="GFLOP/s", values=tuple(operations / t for t in times[f"xlm {dtype}"][1:])
        )
        speeds += [peak, speed]
        if size == "published":
            bars.append(
                Bar(
                    name=f"xlm / matrix product, {dtype}",
                    value=ratio_of_rounds(speed, peak),
                    limit=limit,
                    at_least=True,
                )
            )
    if against:
        by_name = {figure.name: figure for figure in figures}
        bars.append(Bar(name=f"logits, largest difference from {against}", value=difference, limit=1e-5))
        if size == "published":
            ratio = ratio_of_rounds(by_name["xlm float32"], by_name[against])
            bars.append(Bar(name=f"xlm float32 / {against}, time", value=ratio, limit=1.0))
    return BenchReport(
        title=f"forward with all logits, {B} x {T} tokens, {size} size, {rounds} rounds",
        machine=machine_facts(("torch", *((against,) if against else ()))),
        figures=(*figures, *speeds),
        bars=tuple(bars),
    )


def forward_operations(config: XLMConfig, rows: int, tokens: int) -> float:
    """Multiplications and additions of one forward with all logits, causal attention counted as half a square."""
    D, L, V = config.emb_dim, config.n_layers, config.vocab_size
    return 2.0 * rows * tokens * (12 * L * D * D + V * D + L * D * tokens)
