"""Speed of a forward pass with all logits, compared with a peer and with the machine's matrix products."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.hardware import CPU, DeviceSetup, has_matrix_units, matrix_peak, timed
from benchmarks.models import SIZES, ModelPair, load_pair, write_random_model
from benchmarks.report import Measurement, Report, Target, machine_facts, quotients, ratio_of_rounds
from xlm.model.config import XLMConfig
from xlm.model.lm import XLMWithLMHeadModel

B, T = 8, 128
PEAK_LIMITS = {"float32": 0.9, "bfloat16": 0.85}
"""Share of the matrix product's speed that a forward pass should reach on a CPU, by type."""
DIFFERENCE_LIMIT = 1e-5
"""Largest allowed difference from the peer's logits in float32, relative to the largest logit."""


def bench_forward(scratch: Path, *, size: str, rounds: int, against: str | None, setup: DeviceSetup = CPU) -> Report:
    """Time a random model on B x T random tokens, alternating with a peer and with matrix products.

    Args:
        scratch: A directory for temporary files.
        size: One of ``SIZES``.
        rounds: Number of rounds; each measures everything once.
        against: ``"transformers"`` or ``None``.
        setup: Where to run. On a CPU, this library's model runs in each type, and a peer in float32. Elsewhere both run
            in bfloat16, without targets for time.
    """
    pair = load_pair(write_random_model(scratch, SIZES[size]), against, setup)
    config, device = pair.ours.config, setup.device
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(14, config.vocab_size, (B, T), generator=generator).to(device)
    langs_BT = torch.ones_like(ids_BT)
    types = tuple(PEAK_LIMITS) if setup.packed else (setup.dtype,)
    models = {f"xlm {dtype}": pair.ours.for_inference(dtype) if setup.packed else pair.ours for dtype in types}
    peer = setup.label(against)
    times: dict[str, list[float]] = {name: [] for name in (*models, *([peer] if peer else []))}
    peaks: dict[str, list[float]] = {dtype: [] for dtype in types if has_matrix_units(getattr(torch, dtype), device)}
    with torch.inference_mode():
        for _ in range(rounds + 1):  # the first round is a warm-up
            for dtype, speeds in peaks.items():
                speeds.append(matrix_peak(getattr(torch, dtype), device))
            for name, model in models.items():
                times[name].append(timed(partial(model, ids_BT, langs=langs_BT), device)[0])
            if peer:
                times[peer].append(timed(partial(pair.theirs, input_ids=ids_BT, langs=langs_BT), device)[0])
    operations = forward_operations(config, B, T) / 1e9
    measurements = {name: Measurement(name=name, unit="s", values=tuple(values[1:])) for name, values in times.items()}
    others, targets = [], []
    for dtype in types:
        speed = Measurement(
            name=f"xlm {dtype}, speed",
            unit="GFLOP/s",
            values=tuple(operations / t for t in measurements[f"xlm {dtype}"].values),
        )
        if dtype not in peaks:
            others.append(speed)
            continue
        peak = Measurement(name=f"matrix product, {dtype}", unit="GFLOP/s", values=tuple(peaks[dtype][1:]))
        others += [peak, speed]
        share = f"xlm / matrix product, {dtype}"
        if not setup.packed:
            others.append(Measurement(name=share, unit="of the limit", values=quotients(speed, peak)))
        elif size == "published":
            ratio = ratio_of_rounds(speed, peak)
            targets.append(Target(name=share, value=ratio, limit=PEAK_LIMITS[dtype], at_least=True))
    if against and peer:
        ours, theirs = measurements[f"xlm {setup.dtype}"], measurements[peer]
        if not setup.packed:
            others.append(
                Measurement(name=f"{ours.name} / {peer}, speed", unit="times", values=quotients(theirs, ours))
            )
        checks, errors = _compare_logits(pair, models, ids_BT, langs_BT, against=against, setup=setup)
        others += errors
        targets += checks
        if setup.packed and size == "published":
            targets.append(Target(name=f"{ours.name} / {peer}, time", value=ratio_of_rounds(ours, theirs), limit=1.0))
    machine = machine_facts(("torch", *((against,) if against else ())), device=device)
    if len(peaks) < len(types):
        machine["bfloat16"] = "not compared with a matrix product: this processor has no bfloat16 units"
    return Report(
        title=f"forward with all logits, {B} x {T} tokens, {size} size, {rounds} rounds",
        machine=machine,
        measurements=(*measurements.values(), *others),
        targets=tuple(targets),
    )


@torch.inference_mode()
def _compare_logits(
    pair: ModelPair,
    models: Mapping[str, XLMWithLMHeadModel],
    ids_BT: Tensor,
    langs_BT: Tensor,
    *,
    against: str,
    setup: DeviceSetup,
) -> tuple[list[Target], list[Measurement]]:
    """Compare logits with the peer's in float32: as targets for this library, as measurements for a bfloat16 peer."""
    exact = pair if setup.packed else pair.in_float32()
    expected_BTV = exact.theirs(input_ids=ids_BT, langs=langs_BT).logits
    targets = []
    for name, model in {"xlm float32": exact.ours, **models}.items():
        logits_BTV = model(ids_BT, langs=langs_BT).logits
        if name == "xlm float32":
            value = float((logits_BTV - expected_BTV).abs().max() / expected_BTV.abs().max())
            wording, limit = "largest difference from", DIFFERENCE_LIMIT
        else:
            value, wording, limit = _error(logits_BTV, expected_BTV), "error beside", rounding_limit(pair.ours.config)
        targets.append(Target(name=f"{name}: logits, {wording} {against} float32", value=value, limit=limit))
    if setup.packed:
        return targets, []
    peer_error = _error(pair.theirs(input_ids=ids_BT, langs=langs_BT).logits, expected_BTV)
    name = f"{setup.label(against)}: logits, error beside {against} float32"
    return targets, [Measurement(name=name, unit="of their size", values=(peer_error,))]


def _error(logits_BTV: Tensor, expected_BTV: Tensor) -> float:
    """Return the root mean square of the differences, relative to that of the expected logits."""
    return float(torch.linalg.vector_norm(logits_BTV - expected_BTV) / torch.linalg.vector_norm(expected_BTV))


def rounding_limit(config: XLMConfig) -> float:
    """Return the largest allowed root mean square error of bfloat16 logits, relative to that of float32 logits.

    A layer rounds ten times in a row: query and key, scores, context, output, sum and norm, two linear layers, sum and
    norm. Embeddings and head add one rounding each. The error of a rounding is at most half the type's spacing, with
    either sign, so the total error grows with the square root of their number. Most errors are smaller, which leaves
    room for the rounding of the weights.
    """
    roundings = 10 * config.n_layers + 2
    return float(roundings**0.5 * torch.finfo(torch.bfloat16).eps / 2)


def forward_operations(config: XLMConfig, rows: int, tokens: int) -> float:
    """Return the number of multiplications and additions of a forward pass; causal attention counts half a square."""
    attention = config.n_layers * config.emb_dim * tokens
    return 2.0 * rows * tokens * (product_weights(config) + attention)


def product_weights(config: XLMConfig) -> int:
    """Return the number of weights that each token is multiplied by: those of the layers and of the head."""
    return 12 * config.n_layers * config.emb_dim**2 + config.vocab_size * config.emb_dim
