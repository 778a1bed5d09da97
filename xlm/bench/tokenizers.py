"""Tokenizing: time and memory, with the ids compared in the same run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xlm.bench.probe import measure
from xlm.bench.report import Bar, BenchReport, Figure, machine_facts, ratio_of_rounds

TIME_LIMIT = 1 / 20
"""Time of tokenizing with empty caches, in times of transformers'."""
MEMORY_LIMIT = 300.0
"""Megabytes that tokenizing may add."""

_KINDS = {
    "seconds": ("encode of each line, caches empty at the start", "s"),
    "cpu_seconds": ("the same, processor time", "s"),
    "warm_seconds": ("once more, caches filled", "s"),
    "peak_mb": ("memory that the first pass added", "MB"),
}


def bench_tokenizer(
    scratch: Path, *, model: Path, texts: Sequence[Path], rounds: int, against: str | None
) -> BenchReport:
    """Tokenizes all lines of some files, one after the other, each time in a fresh process, beside a peer.

    Args:
        scratch: A directory for the files in between.
        model: A directory with a tokenizer; the preset is ``transformers``.
        texts: UTF-8 files, one text a line.
        rounds: How often to measure; the two alternate.
        against: ``"transformers"`` or nobody.
    """
    joined = scratch / "text"
    joined.write_bytes(b"".join(path.read_bytes().rstrip(b"\n") + b"\n" for path in texts))
    libraries = ("xlm", *((against,) if against else ()))
    rows: dict[str, list[dict[str, float]]] = {library: [] for library in libraries}
    for _ in range(rounds):
        for library in libraries:
            rows[library].append(measure("tokenize", str(model), library, str(joined), str(scratch / library)))
    figures = {
        (library, kind): Figure(name=f"{library}: {label}", unit=unit, values=tuple(row[kind] for row in rows[library]))
        for kind, (label, unit) in _KINDS.items()
        for library in libraries
    }
    ids = {library: (scratch / library).read_text(encoding="utf-8").split("\n") for library in libraries}
    lines = len(ids["xlm"]) - 1
    bars = [Bar(name=f"xlm: {_KINDS['peak_mb'][0]}, MB", value=figures["xlm", "peak_mb"].median, limit=MEMORY_LIMIT)]
    if against:
        differing = sum(ours != theirs for ours, theirs in zip(ids["xlm"], ids[against], strict=True))
        bars.append(Bar(name=f"lines whose ids differ from those of {against}", value=differing, limit=0))
        for kind in ("seconds", "cpu_seconds"):
            ratio = ratio_of_rounds(figures["xlm", kind], figures[against, kind])
            bars.append(Bar(name=f"xlm / {against}: {_KINDS[kind][0]}", value=ratio, limit=TIME_LIMIT))
    size = joined.stat().st_size / 1e6
    return BenchReport(
        title=f"tokenizing {lines} lines ({size:.2f} MB), {rounds} rounds",
        machine=machine_facts(("sacremoses", *((against,) if against else ()))),
        figures=tuple(figures.values()),
        bars=tuple(bars),
    )
