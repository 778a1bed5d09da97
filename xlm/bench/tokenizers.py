"""Tokenizing: time and memory, with the ids compared in the same run; and what further processes bring."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from xlm.bench.probe import measure
from xlm.bench.report import Bar, BenchReport, Figure, machine_facts, ratio_of_rounds
from xlm.checkpoint.hub import TOKENIZER
from xlm.checkpoint.names import find_model
from xlm.data.text import texts_of
from xlm.errors import InputError, XLMError
from xlm.tokenizer.tokenizer import XLMTokenizer

TIME_LIMIT = 1 / 20
"""Time of tokenizing with empty caches, in times of transformers'."""
MEMORY_LIMIT = 300.0
"""Megabytes that tokenizing may add."""
GAIN_OF_A_WORKER = 0.9
"""Of N processes, how many times one they must be, in N."""

_KINDS = {
    "seconds": ("all lines, caches empty at the start", "s"),
    "cpu_seconds": ("the same, processor time", "s"),
    "warm_seconds": ("once more, caches filled", "s"),
    "peak_mb": ("memory that the first pass added", "MB"),
}
_WAYS = {
    "xlm": "xlm: encode_batch",
    "xlm-encode": "xlm: a loop of encode",
    "transformers": "transformers: a loop of encode",
}


def tokenizer_directory(name: str, codes: Path | None, scratch: Path) -> Path:
    """The directory of a model's tokenizer, which a peer can open too; made where there is none.

    Args:
        name: What ``from_pretrained`` takes.
        codes: BPE codes of a checkpoint of the original.
        scratch: Where it is made.

    Raises:
        XLMError: There is no such model, or it has no tokenizer.
    """
    path = find_model(name, TOKENIZER)
    if codes is None and path.is_dir():
        return path
    made = scratch / "tokenizer"
    XLMTokenizer.from_pretrained(path, codes=codes, preset="transformers").save_pretrained(made)
    return made


def lines_of(path: Path) -> list[str]:
    """The lines of a text.

    Raises:
        InputError: It cannot be read, or is empty.
    """
    lines = list(texts_of(path))
    if not any(lines):
        raise InputError("the text is empty", where=path, expected="one text a line")
    return lines


def bench_tokenizer(
    scratch: Path, *, model: Path, texts: Sequence[Path], rounds: int, against: str | None
) -> BenchReport:
    """Tokenizes all lines of some files, each time in a fresh process, beside a peer.

    Args:
        scratch: A directory for the files in between.
        model: A directory with a tokenizer; the preset is ``transformers``.
        texts: UTF-8 files, one text a line.
        rounds: How often to measure; the ways alternate.
        against: ``"transformers"`` or nobody. The limits hold for ``encode_batch``; a loop of ``encode``, which cannot
            look ahead, is measured beside it.
    """
    joined = _join(scratch, texts)
    ways = ("xlm", "xlm-encode", *((against,) if against else ()))
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            rows[way].append(measure("tokenize", str(model), way, str(joined), str(scratch / way)))
    figures = {
        (way, kind): Figure(name=f"{_WAYS[way]}, {label}", unit=unit, values=tuple(row[kind] for row in rows[way]))
        for kind, (label, unit) in _KINDS.items()
        for way in ways
    }
    ids = {way: (scratch / way).read_text(encoding="utf-8").split("\n") for way in ways}
    lines = len(ids["xlm"]) - 1
    bars = [
        Bar(name=f"{_WAYS['xlm']}, {_KINDS['peak_mb'][0]}", value=figures["xlm", "peak_mb"].median, limit=MEMORY_LIMIT)
    ]
    for way in ways[1:]:
        differing = sum(ours != theirs for ours, theirs in zip(ids["xlm"], ids[way], strict=True))
        bars.append(Bar(name=f"lines whose ids differ from those of {_WAYS[way]}", value=differing, limit=0))
    if against:
        for kind in ("seconds", "cpu_seconds"):
            ratio = ratio_of_rounds(figures["xlm", kind], figures[against, kind])
            bars.append(Bar(name=f"{_WAYS['xlm']} / {against}, {_KINDS[kind][0]}", value=ratio, limit=TIME_LIMIT))
    size = joined.stat().st_size / 1e6
    return BenchReport(
        title=f"tokenizing {lines} lines ({size:.2f} MB), {rounds} rounds",
        machine=machine_facts(("sacremoses", *((against,) if against else ()))),
        figures=tuple(figures.values()),
        bars=tuple(bars),
    )


def bench_workers(
    scratch: Path, *, model: Path, texts: Sequence[Path], rounds: int, workers: int, megabytes: float
) -> BenchReport:
    """Tokenizes a long file by ``xlm tokenize``, with one process and with several; each time a new command.

    Args:
        scratch: As for ``bench_tokenizer``.
        model: As for ``bench_tokenizer``.
        texts: As for ``bench_tokenizer``.
        rounds: How often to measure; the two alternate.
        workers: How many processes to compare with one.
        megabytes: Size of the file; the texts are repeated as often as needed.
    """
    joined = _join(scratch, texts, at_least=int(megabytes * 1e6))
    times: dict[int, list[float]] = {1: [], workers: []}
    written = set()
    for _ in range(rounds):
        for number, measured in times.items():
            spent, digest = _tokenized(model, joined, number, scratch / "ids")
            measured.append(spent)
            written.add(digest)
    figures = {
        number: Figure(
            name="one process" if number == 1 else f"{number} processes",
            unit="s",
            values=tuple(measured),
        )
        for number, measured in times.items()
    }
    return BenchReport(
        title=f"tokenizing {joined.stat().st_size / 1e6:.1f} MB by xlm tokenize --output ids, {rounds} rounds",
        machine=machine_facts(("sacremoses",)),
        figures=tuple(figures.values()),
        bars=(
            Bar(name="different outputs, beside one", value=len(written) - 1, limit=0),
            Bar(
                name=f"time of {workers} processes / of one",
                value=ratio_of_rounds(figures[workers], figures[1]),
                limit=1 / (GAIN_OF_A_WORKER * workers),
            ),
        ),
    )


def _tokenized(model: Path, text: Path, workers: int, output: Path) -> tuple[float, str]:
    """Seconds that the command takes, the start of Python included, and the digest of what it writes."""
    command = ["tokenize", str(model), "--lang", "en", "--output", "ids", "--workers", str(workers), str(text)]
    with output.open("wb") as file:
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "xlm", *command], stdout=file, stderr=subprocess.PIPE, text=True, check=False
        )
        spent = time.perf_counter() - start
    if done.returncode != 0:
        raise XLMError("a measurement failed", where="xlm tokenize", found=done.stderr[-2000:].strip())
    with output.open("rb") as file:
        digest = hashlib.new("sha256")
        while block := file.read(1 << 20):
            digest.update(block)
    return spent, digest.hexdigest()


def _join(scratch: Path, texts: Sequence[Path], *, at_least: int = 0) -> Path:
    data = b"".join("\n".join(lines_of(path)).encode() + b"\n" for path in texts)
    joined = scratch / "text"
    with joined.open("wb") as file:
        for _ in range(max(-(-at_least // len(data)), 1)):
            file.write(data)
    return joined
