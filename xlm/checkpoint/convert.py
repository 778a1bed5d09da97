"""Checkpoints from one format to the other, written whole and read back, or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from xlm._atomic import replacing, replacing_directory
from xlm.checkpoint.checkpoint import Checkpoint
from xlm.checkpoint.load import open_checkpoint, parse_dtype
from xlm.checkpoint.original_writer import write_original
from xlm.checkpoint.safetensors_writer import chunks, dtype_name, raw_bytes
from xlm.checkpoint.save import write_layout
from xlm.checkpoint.tokenizer_files import VOCABULARY_FILE, has_tokenizer, load_tokenizer, save_tokenizer
from xlm.errors import CheckpointError, ConfigError, WriteError, XLMError
from xlm.model.config import XLMConfig
from xlm.tokenizer.merges import write_codes
from xlm.tokenizer.vocabulary import Vocabulary

CODES_SUFFIX = ".codes"
"""The merges of a model that is written as ``model.pth`` stand beside it in ``model.codes``: a ``.pth`` has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversionReport:
    """What was converted.

    Attributes:
        source: What was read.
        target: What was written.
        files: Names of the files written.
        config: The architecture.
        tensors: How many tensors, each read back and equal.
        parameters: How many numbers are in them.
        dtype: Their type in the target.
        notes: What was left out or decided, one sentence each.
    """

    source: Path
    target: Path
    files: tuple[str, ...]
    config: XLMConfig
    tensors: int
    parameters: int
    dtype: str
    notes: tuple[str, ...]

    def __str__(self) -> str:
        c = self.config
        languages = ", ".join(sorted(c.lang2id, key=c.lang2id.__getitem__)) or f"{c.n_langs} without names"
        rows = {
            "source": self.source,
            "target": self.target,
            "files": ", ".join(self.files),
            "model": f"{c.n_layers} layers, width {c.emb_dim}, {c.n_heads} heads, "
            f"{'causal' if c.causal else 'bidirectional'}",
            "vocabulary": f"{c.vocab_size:,} words, languages: {languages}",
            "weights": f"{self.tensors} tensors, {self.parameters:,} parameters, {self.dtype}, read back and equal",
        }
        return "\n".join(f"{name:<12}{value}" for name, value in rows.items())


@dataclass(frozen=True, kw_only=True, slots=True)
class _Written:
    """What must be found again in the target."""

    digests: Mapping[str, bytes]
    words: tuple[str, ...] | None
    report: ConversionReport


def convert(
    source: str | PathLike[str],
    target: str | PathLike[str],
    *,
    to: Literal["transformers", "original"] = "transformers",
    codes: str | PathLike[str] | None = None,
    dtype: torch.dtype | str | None = None,
) -> ConversionReport:
    """Converts a checkpoint, and reads the result back before it takes the target's name.

    Args:
        source: A ``.pth`` of the original, or a directory in the ``transformers`` layout.
        target: A directory (``to="transformers"``) or file (``to="original"``) that does not exist yet.
        to: The format to write.
        codes: The BPE codes that belong to a ``.pth``; without them the target has no tokenizer, only a vocabulary.
        dtype: Type of the weights in the target; ``None`` means that of the source.

    Returns:
        What was converted.

    Raises:
        CheckpointError: The source is not what it should be.
        VocabularyError: The codes or vocabulary are not what they should be.
        WriteError: The target exists or could not be written. Nothing is left behind then.
    """
    source, target = Path(source), Path(target)
    wanted = None if dtype is None else parse_dtype(dtype)
    if to not in ("transformers", "original"):
        raise ConfigError("no such format", where="to", found=to, expected="transformers or original")
    outputs = [target] if to == "transformers" else [target, target.with_suffix(CODES_SUFFIX)]
    for output in outputs:
        _refuse_existing(output)
    if to == "transformers":
        with replacing_directory(target) as temporary:
            written = _write_layout(source, temporary, target, codes, wanted)
            _verify(temporary, written)
    else:
        with replacing(target) as temporary:
            written = _write_original(source, temporary, target, codes, wanted)
            _verify(temporary, written)
            if len(written.report.files) > 1:
                write_codes(target.with_suffix(CODES_SUFFIX), load_tokenizer(source, codes=codes).merges)
    return written.report


# The two writers hold the source's tensors only while they run: the target is then read back into the memory that
# the source has left, and a conversion needs the size of one file, not of two.


def _write_layout(
    source: Path, directory: Path, target: Path, codes: str | PathLike[str] | None, dtype: torch.dtype | None
) -> _Written:
    checkpoint = open_checkpoint(source)
    notes = list(checkpoint.notes)
    vocabulary = _vocabulary(checkpoint, source)
    if codes is not None or has_tokenizer(source):
        # The original's preset needs a language. Programs written for transformers give none, so that the directory
        # also says what then holds: what transformers itself does with it.
        settings = {} if source.is_dir() else {"preset_without_lang": "transformers"}
        save_tokenizer(load_tokenizer(source, codes=codes, **settings), directory)
    elif vocabulary is not None:
        vocabulary.to_json(directory / VOCABULARY_FILE)
        notes.append(
            "no BPE codes: the target holds weights and vocabulary only, and no tokenizer; "
            "to have one, convert again with the codes of the training run"
        )
    else:
        notes.append("the source has no vocabulary: the target holds weights only")
    write_layout(
        directory,
        checkpoint.config,
        checkpoint.tensors,
        dtype=dtype,
        extra=checkpoint.extra_config,
        record=checkpoint.record,
    )
    files = tuple(sorted(entry.name for entry in directory.iterdir()))
    return _written(checkpoint, dtype, vocabulary, target, files, notes)


def _write_original(
    source: Path, file: Path, target: Path, codes: str | PathLike[str] | None, dtype: torch.dtype | None
) -> _Written:
    checkpoint = open_checkpoint(source)
    notes = list(checkpoint.notes)
    vocabulary = _vocabulary(checkpoint, source)
    if vocabulary is None:
        raise CheckpointError(
            "the source has no vocabulary, which a checkpoint of the original must hold",
            where=source,
            found=f"no {VOCABULARY_FILE}",
            remedy="fetch the model's vocab.json into the directory",
        )
    if checkpoint.record is None:
        notes.append(
            "the source holds no word counts and no training parameters: counts are 0, params the least needed"
        )
    write_original(file, checkpoint, vocabulary.words(), dtype=dtype)
    files = [target.name]
    if codes is not None or has_tokenizer(source):
        files.append(target.with_suffix(CODES_SUFFIX).name)
    return _written(checkpoint, dtype, vocabulary, target, tuple(files), notes)


def _written(
    checkpoint: Checkpoint,
    dtype: torch.dtype | None,
    vocabulary: Vocabulary | None,
    target: Path,
    files: tuple[str, ...],
    notes: list[str],
) -> _Written:
    words = checkpoint.tensors["transformer.embeddings.word.weight"]
    return _Written(
        digests=_digests(checkpoint.tensors, dtype),
        words=None if vocabulary is None else vocabulary.words(),
        report=ConversionReport(
            source=checkpoint.source,
            target=target,
            files=files,
            config=checkpoint.config,
            tensors=len(checkpoint.tensors),
            parameters=sum(tensor.numel() for tensor in checkpoint.tensors.values()),
            dtype=dtype_name(dtype or words.dtype),
            notes=tuple(notes),
        ),
    )


def _vocabulary(checkpoint: Checkpoint, source: Path) -> Vocabulary | None:
    """The source's words; those of a directory must be as many as the model has."""
    if checkpoint.words is not None:
        counts = None if checkpoint.record is None else checkpoint.record.counts
        return Vocabulary.from_dictionary(checkpoint.words, counts, where=source)
    file = source / VOCABULARY_FILE
    if not file.is_file():
        return None
    vocabulary = Vocabulary.from_json(file)
    if len(vocabulary) != checkpoint.config.vocab_size:
        raise CheckpointError(
            "the vocabulary is of another size than the model",
            where=file,
            found=f"{len(vocabulary)} words",
            expected=f"{checkpoint.config.vocab_size}",
            remedy="use the vocabulary that belongs to these weights",
        )
    return vocabulary


def _digests(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, bytes]:
    def digest(tensor: Tensor) -> bytes:
        kind = dtype or tensor.dtype
        total = hashlib.sha256(f"{dtype_name(kind)} {tuple(tensor.shape)}".encode())
        for piece in chunks(tensor, kind):
            total.update(raw_bytes(piece))
        return total.digest()

    # hashlib lets go of the interpreter lock, so that threads help.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return dict(zip(tensors, pool.map(digest, tensors.values()), strict=True))


def _verify(target: Path, written: _Written) -> None:
    """Reads the target as any user would, and compares."""
    try:
        checkpoint = open_checkpoint(target, causal=written.report.config.causal)
        vocabulary = _vocabulary(checkpoint, target)
        found = _digests(checkpoint.tensors, None)
        differing = [name for name in {**written.digests, **found} if written.digests.get(name) != found.get(name)]
        if (None if vocabulary is None else vocabulary.words()) != written.words:
            differing.append("the vocabulary")
    except XLMError as error:
        raise WriteError("what was written cannot be read back", where=written.report.target, found=error) from error
    if differing:
        raise WriteError(
            "what was written is not what was read back",
            where=written.report.target,
            found=f"differences in {', '.join(differing[:8])}",
            remedy="the disk or memory of this machine is at fault; try another target",
        )


def _refuse_existing(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise WriteError(
            "the target exists already",
            where=target,
            found="a directory" if target.is_dir() else "a file",
            expected="a name that is free",
            remedy="choose another name, or remove what is there",
        )
