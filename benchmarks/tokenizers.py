"""Time and memory of tokenizing, with a comparison of the ids; the speed-up with several processes; xlm prepare."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Measurement, Report, Target, machine_facts, ratio_of_rounds
from benchmarks.worker import measure
from xlm.checkpoint.hub import TOKENIZER
from xlm.checkpoint.resolve import find_model
from xlm.corpus.rows import Corpus
from xlm.errors import InputError, XLMError
from xlm.tokenizer.tokenizer import XLMTokenizer

TIME_LIMIT = 1 / 20
"""Largest time with empty caches, as a multiple of that of transformers."""
MEMORY_LIMIT = 300.0
"""Largest memory that tokenizing may add, in megabytes."""
WORKER_EFFICIENCY = 0.9
"""Smallest speed-up with N processes, divided by N."""

FIRST_LINES = 4600
"""Number of lines that are tokenized in a process that has tokenized nothing before."""

_KINDS = {
    "seconds": ("all lines, caches empty at the start", "s"),
    "cpu_seconds": ("the same, processor time", "s"),
    "warm_seconds": ("once more, caches filled", "s"),
    "first_cpu_seconds": ("the first lines of a process, with all tables, processor time", "s"),
    "peak_mb": ("memory that the first pass added", "MB"),
}
_WAYS = {
    "xlm": "xlm: encode_batch",
    "xlm-encode": "xlm: a loop of encode",
    "transformers": "transformers: a loop of encode",
}


def tokenizer_directory(name: str, codes: Path | None, scratch: Path) -> Path:
    """Return a directory with the tokenizer of a model that a peer can open too; write one if necessary.

    Args:
        name: A name that ``from_pretrained`` accepts.
        codes: The BPE codes of an original checkpoint.
        scratch: The directory for temporary files.

    Raises:
        XLMError: There is no such model, or it has no tokenizer.
    """
    path = find_model(name, TOKENIZER)
    if codes is None and path.is_dir():
        return path
    directory = scratch / "tokenizer"
    XLMTokenizer.from_pretrained(path, codes=codes, preset="transformers").save_pretrained(directory)
    return directory


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text.

    Raises:
        InputError: The text cannot be read, or is empty.
    """
    lines = list(Corpus([path]).texts())
    if not any(lines):
        raise InputError("the text is empty", where=path, expected="one text a line")
    return lines


def bench_tokenizer(scratch: Path, *, model: Path, texts: Sequence[Path], rounds: int, against: str | None) -> Report:
    """Measure how fast all lines of some files are tokenized, in turn with a peer, each time in a fresh process.

    Args:
        scratch: A directory for temporary files.
        model: A directory with a tokenizer, used with the preset ``transformers``.
        texts: UTF-8 files with one text in each line.
        rounds: The number of rounds; each round measures everything once.
        against: ``"transformers"`` or None. The targets hold for ``encode_batch``. A loop of ``encode``, which cannot
            look ahead, has no target.
    """
    joined = _join(scratch, texts)
    ways = ("xlm", "xlm-encode", *((against,) if against else ()))
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            row = measure("tokenize", str(model), way, str(joined), str(scratch / way))
            rows[way].append(row | measure("tokenize-first", str(model), way, str(joined), str(FIRST_LINES)))
    measurements = {
        (way, kind): Measurement(name=f"{_WAYS[way]}, {label}", unit=unit, values=tuple(row[kind] for row in rows[way]))
        for kind, (label, unit) in _KINDS.items()
        for way in ways
    }
    ids = {way: (scratch / way).read_text(encoding="utf-8").split("\n") for way in ways}
    lines = len(ids["xlm"]) - 1
    targets = [
        Target(
            name=f"{_WAYS['xlm']}, {_KINDS['peak_mb'][0]}",
            value=measurements["xlm", "peak_mb"].median,
            limit=MEMORY_LIMIT,
        )
    ]
    for way in ways[1:]:
        differing = sum(ours != theirs for ours, theirs in zip(ids["xlm"], ids[way], strict=True))
        targets.append(Target(name=f"lines whose ids differ from those of {_WAYS[way]}", value=differing, limit=0))
    if against:
        for kind in ("seconds", "cpu_seconds", "first_cpu_seconds"):
            ratio = ratio_of_rounds(measurements["xlm", kind], measurements[against, kind])
            targets.append(Target(name=f"{_WAYS['xlm']} / {against}, {_KINDS[kind][0]}", value=ratio, limit=TIME_LIMIT))
    size = joined.stat().st_size / 1e6
    return Report(
        title=f"tokenizing {lines} lines ({size:.2f} MB), {rounds} rounds",
        machine=machine_facts(("sacremoses", *((against,) if against else ()))),
        measurements=tuple(measurements.values()),
        targets=tuple(targets),
    )


def bench_prepare(
    scratch: Path, *, model: Path, texts: Sequence[Path], rounds: int, workers: int, megabytes: float
) -> Report:
    """Measure how fast ``xlm prepare`` writes the ids of a long text in several processes.

    Args:
        scratch: A directory for temporary files.
        model: A directory with a tokenizer, used with the preset ``original``.
        texts: Files with one text in each line, all of one language; they are repeated if they are too short.
        rounds: The number of rounds.
        workers: The number of processes.
        megabytes: The size of the text.
    """
    joined = _join(scratch, texts, at_least=int(megabytes * 1e6))
    data = joined.read_bytes()[: int(megabytes * 1e6)]
    joined.write_bytes(data[: data.rfind(b"\n") + 1])
    rows = []
    for number in range(rounds):
        command = ["prepare", str(scratch / f"ids{number}"), "--model", str(model), "--preset", "original"]
        rows.append(_run([*command, "--train", f"en={joined}", "--workers", str(workers)], scratch / "output"))
    seconds, cpu_seconds = zip(*rows, strict=True)
    return Report(
        title=f"xlm prepare of {joined.stat().st_size / 1e6:.1f} MB, {workers} processes, {rounds} rounds",
        machine=machine_facts(("sacremoses",)),
        measurements=(
            Measurement(name="time, with the start", unit="s", values=seconds),
            Measurement(name="processor time of all processes", unit="s", values=cpu_seconds),
        ),
        targets=(),
    )


def bench_workers(
    scratch: Path, *, model: Path, texts: Sequence[Path], rounds: int, workers: int, megabytes: float
) -> Report:
    """Measure how fast ``xlm tokenize`` tokenizes a long file, in turn with one process and with several.

    Args:
        scratch: A directory for temporary files.
        model: A directory with a tokenizer.
        texts: UTF-8 files with one text in each line.
        rounds: The number of rounds.
        workers: The number of processes to compare with one.
        megabytes: The size of the long file, which repeats the texts.
    """
    joined = _join(scratch, texts, at_least=int(megabytes * 1e6))
    times: dict[int, list[float]] = {1: [], workers: []}
    digests = set()
    for _ in range(rounds):
        for number, seconds in times.items():
            taken, digest = _run_tokenize(model, joined, number, scratch / "ids")
            seconds.append(taken)
            digests.add(digest)
    measurements = {
        number: Measurement(
            name="one process" if number == 1 else f"{number} processes",
            unit="s",
            values=tuple(seconds),
        )
        for number, seconds in times.items()
    }
    return Report(
        title=f"tokenizing {joined.stat().st_size / 1e6:.1f} MB by xlm tokenize --output ids, {rounds} rounds",
        machine=machine_facts(("sacremoses",)),
        measurements=tuple(measurements.values()),
        targets=(
            Target(name="different outputs, beside one", value=len(digests) - 1, limit=0),
            Target(
                name=f"time of {workers} processes / of one",
                value=ratio_of_rounds(measurements[workers], measurements[1]),
                limit=1 / (WORKER_EFFICIENCY * workers),
            ),
        ),
    )


def _run_tokenize(model: Path, text: Path, workers: int, output: Path) -> tuple[float, str]:
    """Return the seconds that the command takes, including its start, and the digest of its output."""
    command = ["tokenize", str(model), "--lang", "en", "--output", "ids", "--workers", str(workers), str(text)]
    taken, _ = _run(command, output)
    with output.open("rb") as file:
        digest = hashlib.new("sha256")
        while block := file.read(1 << 20):
            digest.update(block)
    return taken, digest.hexdigest()


def _run(command: Sequence[str], output: Path) -> tuple[float, float]:
    """Run a command of xlm, and return its time and its processor time in seconds, those of its processes included."""
    with output.open("wb") as file:
        start, before = time.perf_counter(), os.times()
        done = subprocess.run(
            [sys.executable, "-m", "xlm", *command], stdout=file, stderr=subprocess.PIPE, text=True, check=False
        )
        taken, after = time.perf_counter() - start, os.times()
    if done.returncode != 0:
        raise XLMError("a measurement failed", where=f"xlm {command[0]}", found=done.stderr[-2000:].strip())
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return taken, cpu


def _join(scratch: Path, texts: Sequence[Path], *, at_least: int = 0) -> Path:
    data = b"".join("\n".join(read_lines(path)).encode() + b"\n" for path in texts)
    joined = scratch / "text"
    with joined.open("wb") as file:
        for _ in range(max(-(-at_least // len(data)), 1)):
            file.write(data)
    return joined
