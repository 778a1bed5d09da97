"""Scoring lines of real text: time, memory and the log-probabilities, beside a peer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file

from xlm.bench.pair import write_random_directory
from xlm.bench.place import CPU, Place
from xlm.bench.probe import measure
from xlm.bench.report import Bar, BenchReport, Figure, machine_facts, ratio_of_rounds
from xlm.bench.tokenizers import lines_of
from xlm.tokenizer.tokenizer import XLMTokenizer

SPEED_LIMITS = {"float32": 2.0, "bfloat16": 5.0}
"""Times the peer's speed in float32 on a CPU, by type."""
SPEED_LIMIT_ELSEWHERE = 2.0
"""Times the peer's speed, both in bfloat16."""
MEMORY_LIMIT = 0.25
"""Of the peer's memory, on a CPU."""
DIFFERENCE_LIMITS = {"float32": 1e-4, "bfloat16": 0.25}
"""Largest difference of a log-probability from the peer's in float32, in nats, by our type.

Logits of these random models have a standard deviation of 1, so the largest of a text's words are about 4. A sixteenth
of that is twice what logits in bfloat16 may be off by on the whole, see ``rounding_limit``. What they are set against
is a sum over all words, in which errors of either sign cancel."""


def bench_score(
    scratch: Path,
    *,
    size: str,
    rounds: int,
    against: str | None,
    model: Path,
    texts: Sequence[Path],
    lines: int,
    place: Place = CPU,
) -> BenchReport:
    """Scores the first lines of some files with random weights, each time in a fresh process.

    The peer pads batches of 16 lines in the order of the file, and holds all their logits. On a CPU memory is measured
    only where the system can forget a process's earlier peak.

    Args:
        scratch: A directory for the files.
        size: One of ``SIZES``.
        rounds: How often to measure; all alternate.
        against: ``"transformers"`` or nobody.
        model: A directory with the tokenizer; the preset is ``transformers``.
        texts: UTF-8 files, one text a line.
        lines: How many lines to score, an equal share of each file.
        place: Where. On a CPU ours run in each type beside a peer in float32; elsewhere both in bfloat16, and once more
            in float32 for the comparison of what they return.
    """
    tokenizer = XLMTokenizer.from_pretrained(model, preset="transformers")
    directory = write_random_directory(scratch, size, vocab_size=tokenizer.vocab_size)
    tokenizer.save_pretrained(directory)
    joined = scratch / "text"
    share = -(-lines // len(texts))
    taken = [line for path in texts for line in lines_of(path)[:share]][:lines]
    joined.write_text("".join(f"{line}\n" for line in taken), encoding="utf-8")
    limits = SPEED_LIMITS if place.packed else {place.loaded_type: SPEED_LIMIT_ELSEWHERE}
    peer, exact = (against or "", place.loaded_type), (against or "", "float32")
    timed = [("xlm", dtype) for dtype in limits] + ([peer] if against else [])
    compared = [kind for kind in (("xlm", "float32"), exact) if against and kind not in timed]
    rows: dict[tuple[str, str], list[dict[str, float]]] = {kind: [] for kind in (*timed, *compared)}
    for kind in timed * rounds + compared:
        where = (str(place.device), "packed" if place.packed else "plain")
        rows[kind].append(measure("score", str(directory), *kind, str(joined), str(_output(scratch, kind)), *where))
    times = {
        kind: Figure(name=f"{' '.join(kind)}, time", unit="s", values=tuple(row["seconds"] for row in rows[kind]))
        for kind in timed
    }
    memory = {
        kind: Figure(
            name=f"{' '.join(kind)}, peak memory above the weights",
            unit="MB",
            values=tuple(row["peak_mb"] for row in rows[kind]),
        )
        for kind in timed
        if all("peak_mb" in row for each in timed for row in rows[each])
    }
    logprobs = {kind: load_file(_output(scratch, kind))["logprobs"] for kind in rows}
    bars, errors = [], []
    for kind in rows if against else ():
        name = f"{' '.join(kind)}: log-probabilities, largest difference from {' '.join(exact)}, nats"
        difference = float((logprobs[kind] - logprobs[exact]).abs().max())
        if kind[0] == "xlm":
            bars.append(Bar(name=name, value=difference, limit=DIFFERENCE_LIMITS[kind[1]]))
        elif kind != exact:
            errors.append(Figure(name=name, unit="nats", values=(difference,)))
    for dtype, limit in limits.items() if against and size == "published" else ():
        ours, name = ("xlm", dtype), f"xlm {dtype} / {' '.join(peer)}"
        ratio = ratio_of_rounds(times[peer], times[ours])
        bars.append(Bar(name=f"{name}, speed", value=ratio, limit=limit, at_least=True))
        if memory and place.packed:
            ratio = ratio_of_rounds(memory[ours], memory[peer])
            bars.append(Bar(name=f"{name}, memory", value=ratio, limit=MEMORY_LIMIT))
    return BenchReport(
        title=f"scoring {len(taken)} lines, {len(logprobs[timed[0]])} tokens, {size} size, {rounds} rounds",
        machine=machine_facts(("torch", *((against,) if against else ())), device=place.device),
        figures=(*times.values(), *memory.values(), *errors),
        bars=tuple(bars),
    )


def _output(scratch: Path, kind: tuple[str, str]) -> Path:
    return scratch / f"{'.'.join(kind)}.safetensors"
