"""A forward with all logits, beside a peer's and beside the machine's matrix product."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from xlm.bench.limits import matrix_peak, multiplies, seconds
from xlm.bench.pair import Pair, load_pair, write_random_directory
from xlm.bench.place import CPU, Place
from xlm.bench.report import Bar, BenchReport, Figure, machine_facts, quotients, ratio_of_rounds
from xlm.model.config import XLMConfig
from xlm.model.lm import XLMWithLMHeadModel

B, T = 8, 128
PEAK_LIMITS = {"float32": 0.9, "bfloat16": 0.85}
"""Share of the matrix product's operations a second that a forward should reach on a CPU, by type."""
DIFFERENCE_LIMIT = 1e-5
"""Of logits in float32 from the peer's, in the largest of them."""


def bench_forward(scratch: Path, *, size: str, rounds: int, against: str | None, place: Place = CPU) -> BenchReport:
    """Runs B x T random tokens through a random model, in turn with a peer and with matrix products.

    Args:
        scratch: A directory for the files.
        size: One of ``SIZES``.
        rounds: How often to measure; all alternate.
        against: ``"transformers"`` or nobody.
        place: Where. On a CPU ours run in each type beside a peer in float32; elsewhere both in bfloat16, without bars
            on time.
    """
    pair = load_pair(write_random_directory(scratch, size), against, place)
    config, device = pair.ours.config, place.device
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(14, config.vocab_size, (B, T), generator=generator).to(device)
    langs_BT = torch.ones_like(ids_BT)
    types = tuple(PEAK_LIMITS) if place.packed else (place.loaded_type,)
    models = {f"xlm {dtype}": pair.ours.for_inference(dtype) if place.packed else pair.ours for dtype in types}
    peer = place.named(against)
    times: dict[str, list[float]] = {name: [] for name in (*models, *([peer] if peer else []))}
    peaks: dict[str, list[float]] = {dtype: [] for dtype in types if multiplies(getattr(torch, dtype), device)}
    with torch.inference_mode():
        for _ in range(rounds + 1):  # the first warms up
            for dtype, found in peaks.items():
                found.append(matrix_peak(getattr(torch, dtype), device))
            for name, model in models.items():
                times[name].append(seconds(partial(model, ids_BT, langs=langs_BT), device)[0])
            if peer:
                times[peer].append(seconds(partial(pair.theirs, input_ids=ids_BT, langs=langs_BT), device)[0])
    operations = forward_operations(config, B, T) / 1e9
    figures = {name: Figure(name=name, unit="s", values=tuple(values[1:])) for name, values in times.items()}
    others, bars = [], []
    for dtype in types:
        speed = Figure(
            name=f"xlm {dtype}, speed",
            unit="GFLOP/s",
            values=tuple(operations / t for t in figures[f"xlm {dtype}"].values),
        )
        if dtype not in peaks:
            others.append(speed)
            continue
        peak = Figure(name=f"matrix product, {dtype}", unit="GFLOP/s", values=tuple(peaks[dtype][1:]))
        others += [peak, speed]
        share = f"xlm / matrix product, {dtype}"
        if not place.packed:
            others.append(Figure(name=share, unit="of the limit", values=quotients(speed, peak)))
        elif size == "published":
            ratio = ratio_of_rounds(speed, peak)
            bars.append(Bar(name=share, value=ratio, limit=PEAK_LIMITS[dtype], at_least=True))
    if against and peer:
        ours, theirs = figures[f"xlm {place.loaded_type}"], figures[peer]
        if not place.packed:
            others.append(Figure(name=f"{ours.name} / {peer}, speed", unit="times", values=quotients(theirs, ours)))
        checks, errors = _compared(pair, models, ids_BT, langs_BT, against=against, place=place)
        others += errors
        bars += checks
        if place.packed and size == "published":
            bars.append(Bar(name=f"{ours.name} / {peer}, time", value=ratio_of_rounds(ours, theirs), limit=1.0))
    machine = machine_facts(("torch", *((against,) if against else ())), device=device)
    if len(peaks) < len(types):
        machine["bfloat16"] = "not held to a matrix product, which this processor has no units for"
    return BenchReport(
        title=f"forward with all logits, {B} x {T} tokens, {size} size, {rounds} rounds",
        machine=machine,
        figures=(*figures.values(), *others),
        bars=tuple(bars),
    )


@torch.inference_mode()
def _compared(
    pair: Pair,
    models: Mapping[str, XLMWithLMHeadModel],
    ids_BT: Tensor,
    langs_BT: Tensor,
    *,
    against: str,
    place: Place,
) -> tuple[list[Bar], list[Figure]]:
    """Logits in each type beside the peer's in float32: bars for ours, figures for a peer that rounds too."""
    exact = pair if place.packed else pair.in_float32()
    expected_BTV = exact.theirs(input_ids=ids_BT, langs=langs_BT).logits
    bars = []
    for name, model in {"xlm float32": exact.ours, **models}.items():
        found_BTV = model(ids_BT, langs=langs_BT).logits
        if name == "xlm float32":
            value = float((found_BTV - expected_BTV).abs().max() / expected_BTV.abs().max())
            said, limit = "largest difference from", DIFFERENCE_LIMIT
        else:
            value, said, limit = _error(found_BTV, expected_BTV), "error beside", rounding_limit(pair.ours.config)
        bars.append(Bar(name=f"{name}: logits, {said} {against} float32", value=value, limit=limit))
    if place.packed:
        return bars, []
    of_peer = _error(pair.theirs(input_ids=ids_BT, langs=langs_BT).logits, expected_BTV)
    name = f"{place.named(against)}: logits, error beside {against} float32"
    return bars, [Figure(name=name, unit="of their size", values=(of_peer,))]


def _error(found_BTV: Tensor, expected_BTV: Tensor) -> float:
    """Root mean square of the differences, in that of what is expected."""
    return float(torch.linalg.vector_norm(found_BTV - expected_BTV) / torch.linalg.vector_norm(expected_BTV))


def rounding_limit(config: XLMConfig) -> float:
    """How far logits in bfloat16 may be from those in float32: root mean square, in that of the logits.

    A layer rounds ten times, one after another: query and key, scores, context, output, sum and norm, two maps, sum and
    norm; embeddings and head add one each. Each number is then off by at most half the type's spacing, up or down, so
    that together these errors stay near the root of their number. Most are smaller, which leaves room for what rounding
    the weights adds.
    """
    roundings = 10 * config.n_layers + 2
    return float(roundings**0.5 * torch.finfo(torch.bfloat16).eps / 2)


def forward_operations(config: XLMConfig, rows: int, tokens: int) -> float:
    """Multiplications and additions of one forward with all logits, causal attention counted as half a square."""
    D, L, V = config.emb_dim, config.n_layers, config.vocab_size
    return 2.0 * rows * tokens * (12 * L * D * D + V * D + L * D * tokens)
