"""Time and memory of converting and loading checkpoints."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path

from benchmarks.models import SIZES, write_random_model, write_random_original
from benchmarks.report import Measurement, Report, Target, machine_facts, ratio_of_rounds
from benchmarks.worker import measure

CONVERT_MEMORY_LIMIT = 1.3
"""Largest peak memory of a conversion, as a multiple of the source file's size."""
CONVERT_TIME_LIMIT = 2.5
"""Largest time of a conversion, as a multiple of copying and hashing the source file."""


def bench_convert(scratch: Path, *, size: str, rounds: int) -> Report:
    """Convert a random original checkpoint in a fresh process, in turn with ``cp`` and a hash of the copy.

    Args:
        scratch: A directory for temporary files, up to three times the size of the checkpoint.
        size: One of ``SIZES``.
        rounds: How often to measure.
    """
    source = scratch / "random.pth"
    write_random_original(source, SIZES[size])
    source_mb = source.stat().st_size / 1e6
    copying, converting, memory = [], [], []
    for _ in range(rounds + 1):
        _settle()
        copying.append(_copy_and_hash(source, scratch / "copy.pth"))
        _settle()
        results = measure("convert", str(source), str(scratch / "converted"))
        shutil.rmtree(scratch / "converted")
        converting.append(results["seconds"])
        memory.append(results["peak_mb"])
    # The first round only warms the page cache.
    reference = Measurement(name="cp and sha256 of the copy", unit="s", values=tuple(copying[1:]))
    conversion = Measurement(name="convert", unit="s", values=tuple(converting[1:]))
    peak = Measurement(name="convert, peak memory above torch imported", unit="MB", values=tuple(memory[1:]))
    return Report(
        title=f"xlm convert, original to transformers, {size} size ({source_mb:.0f} MB), {rounds} rounds",
        machine=machine_facts(("torch", "safetensors")),
        measurements=(reference, conversion, peak),
        targets=()
        if size != "published"
        else (
            Target(
                name="time / time of cp and sha256",
                value=ratio_of_rounds(conversion, reference),
                limit=CONVERT_TIME_LIMIT,
            ),
            Target(name="peak memory / size of the file", value=peak.median / source_mb, limit=CONVERT_MEMORY_LIMIT),
        ),
    )


def bench_load(scratch: Path, *, size: str, rounds: int, against: str | None) -> Report:
    """Load a converted checkpoint in a fresh process, in turn with a peer.

    Args:
        scratch: A directory for temporary files, up to twice the size of the checkpoint.
        size: One of ``SIZES``.
        rounds: How often to measure.
        against: ``"transformers"`` or ``None``.
    """
    directory = write_random_model(scratch, SIZES[size])
    libraries = ("xlm", *((against,) if against else ()))
    rows: dict[str, list[dict[str, float]]] = {library: [] for library in libraries}
    for _ in range(rounds + 1):
        for library in libraries:
            rows[library].append(measure("load", str(directory), library))
    kinds = {
        "seconds": ("from_pretrained", "s"),
        "with_forward_seconds": ("from_pretrained and a forward of 16 tokens", "s"),
        "again_cpu_seconds": ("from_pretrained again in the same process, processor time", "s"),
        "again_and_read_cpu_seconds": ("the same and the sum of every weight, which reads all of them", "s"),
        "peak_mb": ("from_pretrained, peak memory above imports", "MB"),
    }
    measurements = {
        (library, kind): Measurement(
            name=f"{library}: {label}", unit=unit, values=tuple(row[kind] for row in rows[library][1:])
        )
        for kind, (label, unit) in kinds.items()
        for library in libraries
    }
    targets = [
        Target(
            name=f"xlm / {against}: {kinds[kind][0]}",
            value=ratio_of_rounds(measurements["xlm", kind], measurements[against, kind]),
            limit=limit,
        )
        for kind, limit in (
            ("seconds", 1.0),
            ("with_forward_seconds", 1.0),
            ("again_cpu_seconds", 1.2),
            ("again_and_read_cpu_seconds", 1.2),
        )
        if against and size == "published"
    ]
    return Report(
        title=f"from_pretrained of a directory, {size} size, {rounds} rounds",
        machine=machine_facts(("torch", "safetensors", *((against,) if against else ()))),
        measurements=tuple(measurements.values()),
        targets=tuple(targets),
    )


def _settle() -> None:
    # Otherwise pending disk writes of one step would slow down the next.
    if hasattr(os, "sync"):
        os.sync()


def _copy_and_hash(source: Path, target: Path) -> float:
    start = time.perf_counter()
    subprocess.run(["cp", str(source), str(target)], check=True)
    digest = hashlib.sha256()
    with target.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    seconds = time.perf_counter() - start
    target.unlink()
    return seconds
