"""Time, memory and log-probabilities of scoring lines of real text, compared with a peer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file

from benchmarks.hardware import CPU, DeviceSetup
from benchmarks.models import SIZES, write_random_model
from benchmarks.report import Measurement, Report, Target, machine_facts, ratio_of_rounds
from benchmarks.tokenizers import read_lines
from benchmarks.worker import measure
from xlm.tokenizer.tokenizer import XLMTokenizer

SPEED_LIMITS = {"float32": 2.0, "bfloat16": 5.0}
"""Smallest speed on a CPU as a multiple of the peer's in float32, by type."""
GPU_SPEED_LIMIT = 2.0
"""Smallest speed on a GPU as a multiple of the peer's, both in bfloat16."""
MEMORY_LIMIT = 0.25
"""Largest memory on a CPU, as a share of the peer's."""
DIFFERENCE_LIMITS = {"float32": 1e-4, "bfloat16": 0.25}
"""Largest difference from the peer's log-probabilities in float32, in nats, by our type.

The logits of these random models have a standard deviation of 1, so the largest in a text are about 4. A sixteenth of
that is twice the error allowed for bfloat16 logits (see ``rounding_limit``). In the normaliser, which is a sum over all
words, errors of either sign cancel."""


def bench_score(
    scratch: Path,
    *,
    size: str,
    rounds: int,
    against: str | None,
    model: Path,
    texts: Sequence[Path],
    lines: int,
    setup: DeviceSetup = CPU,
) -> Report:
    """Score the first lines of some files with random weights, each time in a fresh process.

    The peer scores padded batches of 16 lines in the order of the file and holds all their logits. On a CPU, memory is
    measured only if the system can reset the peak of a process.

    Args:
        scratch: A directory for temporary files.
        size: One of ``SIZES``.
        rounds: How often to measure; each round measures everything in turn.
        against: ``"transformers"`` or ``None``.
        model: A directory with a tokenizer, used with the preset ``transformers``.
        texts: UTF-8 files, one text a line.
        lines: Number of lines to score, an equal share of each file.
        setup: Where to run. On a CPU our model runs in each type beside a peer in float32; elsewhere both run in
            bfloat16, and once more in float32 to compare their log-probabilities.
    """
    tokenizer = XLMTokenizer.from_pretrained(model, preset="transformers")
    directory = write_random_model(scratch, replace(SIZES[size], vocab_size=tokenizer.vocab_size))
    tokenizer.save_pretrained(directory)
    joined = scratch / "text"
    share = -(-lines // len(texts))
    chosen = [line for path in texts for line in read_lines(path)[:share]][:lines]
    joined.write_text("".join(f"{line}\n" for line in chosen), encoding="utf-8")
    limits = SPEED_LIMITS if setup.packed else {setup.dtype: GPU_SPEED_LIMIT}
    peer, exact = (against or "", setup.dtype), (against or "", "float32")
    timed = [("xlm", dtype) for dtype in limits] + ([peer] if against else [])
    compared = [kind for kind in (("xlm", "float32"), exact) if against and kind not in timed]
    rows: dict[tuple[str, str], list[dict[str, float]]] = {kind: [] for kind in (*timed, *compared)}
    for kind in timed * rounds + compared:
        where = (str(setup.device), "packed" if setup.packed else "plain")
        rows[kind].append(measure("score", str(directory), *kind, str(joined), str(_output(scratch, kind)), *where))
    times = {
        kind: Measurement(name=f"{' '.join(kind)}, time", unit="s", values=tuple(row["seconds"] for row in rows[kind]))
        for kind in timed
    }
    memory = {
        kind: Measurement(
            name=f"{' '.join(kind)}, peak memory above the weights",
            unit="MB",
            values=tuple(row["peak_mb"] for row in rows[kind]),
        )
        for kind in timed
        if all("peak_mb" in row for each in timed for row in rows[each])
    }
    logprobs = {kind: load_file(_output(scratch, kind))["logprobs"] for kind in rows}
    targets, errors = [], []
    for kind in rows if against else ():
        name = f"{' '.join(kind)}: log-probabilities, largest difference from {' '.join(exact)}, nats"
        difference = float((logprobs[kind] - logprobs[exact]).abs().max())
        if kind[0] == "xlm":
            targets.append(Target(name=name, value=difference, limit=DIFFERENCE_LIMITS[kind[1]]))
        elif kind != exact:
            errors.append(Measurement(name=name, unit="nats", values=(difference,)))
    for dtype, limit in limits.items() if against and size == "published" else ():
        ours, name = ("xlm", dtype), f"xlm {dtype} / {' '.join(peer)}"
        ratio = ratio_of_rounds(times[peer], times[ours])
        targets.append(Target(name=f"{name}, speed", value=ratio, limit=limit, at_least=True))
        if memory and setup.packed:
            ratio = ratio_of_rounds(memory[ours], memory[peer])
            targets.append(Target(name=f"{name}, memory", value=ratio, limit=MEMORY_LIMIT))
    return Report(
        title=f"scoring {len(chosen)} lines, {len(logprobs[timed[0]])} tokens, {size} size, {rounds} rounds",
        machine=machine_facts(("torch", *((against,) if against else ())), device=setup.device),
        measurements=(*times.values(), *memory.values(), *errors),
        targets=tuple(targets),
    )


def _output(scratch: Path, kind: tuple[str, str]) -> Path:
    return scratch / f"{'.'.join(kind)}.safetensors"
