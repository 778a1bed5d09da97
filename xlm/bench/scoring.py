"""Scoring lines of real text: time, memory and the log-probabilities, beside a peer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file

from xlm.bench.pair import write_random_directory
from xlm.bench.probe import measure
from xlm.bench.report import Bar, BenchReport, Figure, machine_facts, ratio_of_rounds
from xlm.bench.tokenizers import lines_of
from xlm.tokenizer.tokenizer import XLMTokenizer

SPEED_LIMITS = {"float32": 2.0, "bfloat16": 5.0}
"""Times the peer's speed in float32, by type."""
MEMORY_LIMIT = 0.25
DIFFERENCE_LIMIT = 1e-4


def bench_score(
    scratch: Path, *, size: str, rounds: int, against: str | None, model: Path, texts: Sequence[Path], lines: int
) -> BenchReport:
    """Scores the first lines of some files with random weights, each time in a fresh process.

    The peer pads batches of 16 lines in the order of the file, and holds all their logits. Memory is measured only
    where the system can forget a process's earlier peak.

    Args:
        scratch: A directory for the files.
        size: One of ``SIZES``.
        rounds: How often to measure; all alternate.
        against: ``"transformers"`` or nobody.
        model: A directory with the tokenizer; the preset is ``transformers``.
        texts: UTF-8 files, one text a line.
        lines: How many lines to score, an equal share of each file.
    """
    tokenizer = XLMTokenizer.from_pretrained(model, preset="transformers")
    directory = write_random_directory(scratch, size, vocab_size=tokenizer.vocab_size)
    tokenizer.save_pretrained(directory)
    joined = scratch / "text"
    share = -(-lines // len(texts))
    taken = [line for path in texts for line in lines_of(path)[:share]][:lines]
    joined.write_text("".join(f"{line}\n" for line in taken), encoding="utf-8")
    kinds = [("xlm", dtype) for dtype in SPEED_LIMITS] + ([(against, "float32")] if against else [])
    names = {kind: f"{kind[0]} {kind[1]}" for kind in kinds}
    rows: dict[tuple[str, str], list[dict[str, float]]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for library, dtype in kinds:
            output = scratch / f"{library}.{dtype}.safetensors"
            rows[library, dtype].append(measure("score", str(directory), library, dtype, str(joined), str(output)))
    times = {
        kind: Figure(name=f"{names[kind]}, time", unit="s", values=tuple(row["seconds"] for row in rows[kind]))
        for kind in kinds
    }
    memory = {
        kind: Figure(
            name=f"{names[kind]}, peak memory above the weights",
            unit="MB",
            values=tuple(row["peak_mb"] for row in rows[kind]),
        )
        for kind in kinds
        if all("peak_mb" in row for each in kinds for row in rows[each])
    }
    bars, errors = [], []
    logprobs = {kind: load_file(scratch / f"{kind[0]}.{kind[1]}.safetensors")["logprobs"] for kind in kinds}
    for dtype, limit in SPEED_LIMITS.items():
        if not against:
            continue
        peer = (against, "float32")
        difference = float((logprobs["xlm", dtype] - logprobs[peer]).abs().max())
        label = f"xlm {dtype}: log-probabilities, largest difference from {against}, nats"
        if dtype == "float32":
            bars.append(Bar(name=label, value=difference, limit=DIFFERENCE_LIMIT))
        else:
            errors.append(Figure(name=label, unit="nats", values=(difference,)))
        if size == "published":
            bars.append(
                Bar(
                    name=f"xlm {dtype} / {against} float32, speed",
                    value=ratio_of_rounds(times[peer], times["xlm", dtype]),
                    limit=limit,
                    at_least=True,
                )
            )
            if memory:
                bars.append(
                    Bar(
                        name=f"xlm {dtype} / {against} float32, memory",
                        value=ratio_of_rounds(memory["xlm", dtype], memory[peer]),
                        limit=MEMORY_LIMIT,
                    )
                )
    return BenchReport(
        title=f"scoring {len(taken)} lines, {len(logprobs['xlm', 'float32'])} tokens, {size} size, {rounds} rounds",
        machine=machine_facts(("torch", *((against,) if against else ()))),
        figures=(*times.values(), *memory.values(), *errors),
        bars=tuple(bars),
    )
