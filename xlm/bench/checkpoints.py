"""Converting and loading checkpoints: time and memory."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path

import torch

from xlm.bench.probe import measure
from xlm.bench.report import Bar, BenchReport, Figure, machine_facts, ratio_of_rounds
from xlm.checkpoint.checkpoint import Checkpoint
from xlm.checkpoint.convert import convert
from xlm.checkpoint.original_writer import write_original
from xlm.model.config import XLMConfig
from xlm.model.lm import XLMWithLMHeadModel
from xlm.tokenizer.vocabulary import SPECIAL_TOKENS

SIZES = {
    "published": XLMConfig.clm_ende_1024(),
    "small": XLMConfig.clm_ende_1024(vocab_size=2000, emb_dim=64, n_layers=2),
}
"""Sizes to measure at: the published model's, which the bars are for, and one to try the benchmark with."""

_POSITIONS, _LANGUAGES = 8.0, 2.0
"""How much larger these embeddings of a random model are than drawn.

As they are drawn, what the model says next is the token before, whose embedding is its row of the head too; on such
continuations any two models agree. So it says 38 different tokens of 64, and others in another language. What stands
further back still moves the logits by a hundredth only."""

CONVERT_MEMORY_LIMIT = 1.3
"""Peak memory of a conversion, in sizes of the source file."""
CONVERT_TIME_LIMIT = 3.0
"""Time of a conversion, in times of copying and hashing the source file."""


def write_random_original(path: Path, config: XLMConfig) -> None:
    """Writes a checkpoint of the original with random weights and made-up words.

    Args:
        path: The ``.pth`` file.
        config: Of the model.
    """
    torch.manual_seed(0)
    model = XLMWithLMHeadModel(config)
    embeddings = model.transformer.embeddings
    with torch.no_grad():
        embeddings.position.weight.mul_(_POSITIONS)
        if embeddings.language is not None:
            embeddings.language.weight.mul_(_LANGUAGES)
    words = (*SPECIAL_TOKENS, *(f"word{index}" for index in range(config.vocab_size - len(SPECIAL_TOKENS))))
    checkpoint = Checkpoint(source=path, config=config, tensors=model.state_dict())
    write_original(path, checkpoint, words)


def bench_convert(scratch: Path, *, size: str, rounds: int) -> BenchReport:
    """Converts a random original checkpoint, each time in a fresh process, beside ``cp`` and hashing the copy.

    Args:
        scratch: A directory for the files, three times as large as the checkpoint.
        size: One of ``SIZES``.
        rounds: How often to measure; the two alternate.
    """
    source = scratch / "random.pth"
    write_random_original(source, SIZES[size])
    source_mb = source.stat().st_size / 1e6
    copying, converting, memory = [], [], []
    for _ in range(rounds + 1):
        _settle()
        copying.append(_copy_and_hash(source, scratch / "copy.pth"))
        _settle()
        figures = measure("convert", str(source), str(scratch / "converted"))
        shutil.rmtree(scratch / "converted")
        converting.append(figures["seconds"])
        memory.append(figures["peak_mb"])
    # The first round only warms the page cache.
    reference = Figure(name="cp and sha256 of the copy", unit="s", values=tuple(copying[1:]))
    conversion = Figure(name="convert", unit="s", values=tuple(converting[1:]))
    peak = Figure(name="convert, peak memory above torch imported", unit="MB", values=tuple(memory[1:]))
    return BenchReport(
        title=f"xlm convert, original to transformers, {size} size ({source_mb:.0f} MB), {rounds} rounds",
        machine=machine_facts(("torch", "safetensors")),
        figures=(reference, conversion, peak),
        bars=()
        if size != "published"
        else (
            Bar(
                name="time / time of cp and sha256",
                value=ratio_of_rounds(conversion, reference),
                limit=CONVERT_TIME_LIMIT,
            ),
            Bar(name="peak memory / size of the file", value=peak.median / source_mb, limit=CONVERT_MEMORY_LIMIT),
        ),
    )


def bench_load(scratch: Path, *, size: str, rounds: int, against: str | None) -> BenchReport:
    """Loads a converted checkpoint, each time in a fresh process, beside a peer.

    Args:
        scratch: A directory for the files, twice as large as the checkpoint.
        size: One of ``SIZES``.
        rounds: How often to measure; the two alternate.
        against: ``"transformers"`` or nobody.
    """
    source, directory = scratch / "random.pth", scratch / "converted"
    write_random_original(source, SIZES[size])
    convert(source, directory)
    source.unlink()
    libraries = ("xlm", *((against,) if against else ()))
    rows: dict[str, list[dict[str, float]]] = {library: [] for library in libraries}
    for _ in range(rounds + 1):
        for library in libraries:
            rows[library].append(measure("load", str(directory), library))
    kinds = {
        "seconds": ("from_pretrained", "s"),
        "with_forward_seconds": ("from_pretrained and a forward of 16 tokens", "s"),
        "peak_mb": ("from_pretrained, peak memory above imports", "MB"),
    }
    figures = {
        (library, kind): Figure(
            name=f"{library}: {label}", unit=unit, values=tuple(row[kind] for row in rows[library][1:])
        )
        for kind, (label, unit) in kinds.items()
        for library in libraries
    }
    bars = [
        Bar(
            name=f"xlm / {against}: {kinds[kind][0]}",
            value=ratio_of_rounds(figures["xlm", kind], figures[against, kind]),
            limit=1.0,
        )
        for kind in ("seconds", "with_forward_seconds")
        if against and size == "published"
    ]
    return BenchReport(
        title=f"from_pretrained of a directory, {size} size, {rounds} rounds",
        machine=machine_facts(("torch", "safetensors", *((against,) if against else ()))),
        figures=tuple(figures.values()),
        bars=tuple(bars),
    )


def _settle() -> None:
    # What an earlier step left for the disk to write would be charged to the next one.
    if hasattr(os, "sync"):
        os.sync()


def _copy_and_hash(source: Path, target: Path) -> float:
    start = time.perf_counter()
    subprocess.run(["cp", str(source), str(target)], check=True)
    digest = hashlib.sha256()
    with target.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    seconds = time.perf_counter() - start
    target.unlink()
    return seconds
