"""Speed of a training step, beside a plain loop with all logits and torch's AdamW, and beside the matrix product."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.forward import forward_operations
from benchmarks.hardware import matrix_peak
from benchmarks.report import Measurement, Report, Target, machine_facts, ratio_of_rounds
from benchmarks.worker import measure
from xlm.inference.packed_linear import multiplies_bfloat16
from xlm.model.config import XLMConfig
from xlm.model.lm import XLMWithLMHeadModel
from xlm.training.config import BatchSettings, ModelSettings, OptimiserSettings, RunSettings, TrainConfig
from xlm.training.objectives.clm import stream_loss
from xlm.training.optimiser import OriginalAdam
from xlm.training.processes import ModelCaller, Processes
from xlm.training.step import TrainingStep

SETTINGS = {
    "published": (XLMConfig.clm_ende_1024(), 8, 256),
    "small": (XLMConfig.clm_ende_1024(emb_dim=64, n_layers=3, n_heads=4), 32, 64),
}
"""Model, rows and tokens a row: the published size, and the size of the recorded ``clm_ende_multi30k``."""

WAYS = ("xlm", "plain loop")
STEPS = {"published": 2, "small": 3}
"""Timed steps, after a warm-up step; with the default of 2 rounds, no size takes more than a few minutes."""

_EMULATION_DIVISOR = 8
"""Divisor of the rows on a processor without bfloat16 units, which takes a hundred times as long."""


def bench_train(*, size: str, precision: str, rounds: int, steps: int | None = None) -> Report:
    """Take training steps on random tokens, each time in a fresh process, in turn with a plain loop.

    Args:
        size: One of ``SETTINGS``.
        precision: ``float32`` or ``bfloat16``.
        rounds: How often to measure.
        steps: Number of steps each time, of which the fastest counts; by default that of ``STEPS``.
    """
    config, B, T = SETTINGS[size]
    emulated = precision == "bfloat16" and not multiplies_bfloat16()
    if emulated:
        B = max(1, B // _EMULATION_DIVISOR)
    steps = STEPS[size] if steps is None else steps
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    peaks = []
    for _ in range(rounds):
        peaks.append(matrix_peak(getattr(torch, precision)))
        for way in WAYS:
            rows[way].append(measure("train", way, size, precision, str(B), str(steps)))
    # The backward pass takes twice the operations of the forward pass.
    operations = 3 * forward_operations(config, B, T) / 1e9
    peak = Measurement(name=f"matrix product, {precision}", unit="GFLOP/s", values=tuple(peaks))
    measurements = [peak]
    by_way: dict[tuple[str, str], Measurement] = {}
    for way in WAYS:
        for name, unit, values in (
            ("speed", "tokens/s", [B * T / row["step_seconds"] for row in rows[way]]),
            ("operations", "GFLOP/s", [operations / row["step_seconds"] for row in rows[way]]),
            ("memory that the steps added", "MB", [row["peak_mb"] for row in rows[way]]),
        ):
            by_way[way, name] = Measurement(name=f"{way}: {name}", unit=unit, values=tuple(values))
            measurements.append(by_way[way, name])
    # Without dropout, both have the same loss before their first update.
    losses = {way: rows[way][0]["loss"] for way in WAYS}
    difference = abs(losses["xlm"] / losses["plain loop"] - 1)
    memory = "memory that the steps added"
    targets = [
        Target(name="losses, relative difference", value=difference, limit=1e-5 if precision == "float32" else 1e-2),
        Target(
            name="plain loop / xlm, speed",
            value=ratio_of_rounds(by_way["plain loop", "speed"], by_way["xlm", "speed"]),
            limit=1.0,
        ),
        Target(
            name="xlm / plain loop, memory",
            value=ratio_of_rounds(by_way["xlm", memory], by_way["plain loop", memory]),
            limit=1.0,
        ),
    ]
    if size == "published":
        ratio = ratio_of_rounds(by_way["xlm", "operations"], peak)
        targets.append(Target(name="xlm / matrix product", value=ratio, limit=0.6, at_least=True))
    machine = {**machine_facts(("torch",)), "threads": str(torch.get_num_threads())}
    if emulated:
        machine["bfloat16"] = f"emulated, since this processor has no units for it; hence {B} rows a step"
    return Report(
        title=f"training steps of {B} x {T} tokens, {size} size, {precision}, {rounds} rounds",
        machine=machine,
        measurements=tuple(measurements),
        targets=tuple(targets),
    )


def take_steps(way: str, size: str, precision: str, rows: int, steps: int) -> dict[str, float]:
    """Take a warm-up step and some more in one of the ``WAYS``.

    Returns:
        ``step_seconds`` of the fastest step after the warm-up, and the ``loss`` before the first.
    """
    config, _, T = SETTINGS[size]
    torch.manual_seed(0)
    model = XLMWithLMHeadModel(config.replace(dropout=0.0, attention_dropout=0.0)).train()
    ids_BT = torch.randint(14, config.vocab_size, (rows, T))
    step = our_step(model, ids_BT, precision) if way == "xlm" else _plain_step(model, ids_BT, precision)
    losses, times = [], []
    for number in range(steps + 1):
        start = time.perf_counter()
        losses.append(step(number))
        times.append(time.perf_counter() - start)
    return {"step_seconds": min(times[1:]), "loss": losses[0]}


def our_step(model: XLMWithLMHeadModel, ids_BT: Tensor, precision: str) -> Callable[[int], float]:
    """Return a function that takes a training step of this library and returns the loss."""
    sizes = ModelSettings(emb_dim=model.config.emb_dim, n_layers=model.config.n_layers, n_heads=model.config.n_heads)
    settings = TrainConfig(
        data="none",
        output="none",
        model=sizes,
        batch=BatchSettings(batch_size=ids_BT.shape[0], seq_len=ids_BT.shape[1]),
        optimiser=OptimiserSettings(schedule="constant", warmup_steps=0),
        run=RunSettings(precision=precision, device="cpu"),
    )
    processes = Processes(rank=0, count=1, device=torch.device("cpu"))
    optimiser = OriginalAdam(model.parameters())
    take_step = TrainingStep(ModelCaller(model), _stream_loss, optimiser, settings, processes=processes)
    return lambda number: take_step([ids_BT], step=number, update=number).loss


def _stream_loss(model: XLMWithLMHeadModel, ids_BT: Tensor) -> Tensor:
    return stream_loss(model, ids_BT, 0)


def _plain_step(model: XLMWithLMHeadModel, ids_BT: Tensor, precision: str) -> Callable[[int], float]:
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    lengths_B = torch.full((ids_BT.shape[0],), ids_BT.shape[1])

    def step(_: int) -> float:
        optimiser.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            logits_BTV = model(ids_BT, langs=0, lengths=lengths_B).logits
            loss = F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten())
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        return float(loss.detach())

    return step
