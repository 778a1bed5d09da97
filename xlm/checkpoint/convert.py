"""Convert checkpoints between formats, and verify each result before it gets the target's name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor

from xlm._io.arguments import as_path, shown
from xlm._io.atomic import check_name, replacing, replacing_directory
from xlm.checkpoint.checkpoint import Checkpoint
from xlm.checkpoint.hf_config import read_config
from xlm.checkpoint.hf_weights import WEIGHTS_FILE, bits, chunks, differing_tensors, dtype_name
from xlm.checkpoint.load import open_checkpoint, parse_dtype
from xlm.checkpoint.original import read_original
from xlm.checkpoint.original_writer import write_original
from xlm.checkpoint.resolve import find_model
from xlm.checkpoint.save import write_layout
from xlm.checkpoint.state_dict_map import TRANSFORMERS
from xlm.checkpoint.tokenizer_files import (
    has_tokenizer,
    load_tokenizer,
    original_tokenizer,
    save_tokenizer,
)
from xlm.errors import CheckpointError, ConfigError, WriteError, XLMError
from xlm.model.config import XLMConfig
from xlm.tokenizer.bpe import write_codes
from xlm.tokenizer.tokenizer import XLMTokenizer
from xlm.tokenizer.vocabulary import VOCABULARY_FILE, Vocabulary

CODES_SUFFIX = ".codes"
"""Suffix of the file of BPE codes written beside a ``.pth``, because a ``.pth`` does not contain the codes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversionReport:
    """Report of a conversion.

    Attributes:
        source: The file or directory that was read.
        target: The file or directory that was written.
        files: Names of the files written.
        config: The architecture.
        tensors: Number of tensors. Each was read back from the target and compared with the source.
        parameters: Total number of values in the tensors.
        dtype: Type of the tensors in the target.
        is_encoder_decoder: Whether the model is an encoder-decoder.
        notes: Notices for the user about what was omitted or assumed.
    """

    source: Path
    target: Path
    files: tuple[str, ...]
    config: XLMConfig
    tensors: int
    parameters: int
    dtype: str
    is_encoder_decoder: bool
    notes: tuple[str, ...]

    def __str__(self) -> str:
        c = self.config
        kind = "encoder-decoder" if self.is_encoder_decoder else "causal" if c.causal else "bidirectional"
        languages = ", ".join(sorted(c.lang2id, key=c.lang2id.__getitem__)) or f"{c.n_langs} without names"
        rows = {
            "source": self.source,
            "target": self.target,
            "files": ", ".join(self.files),
            "model": f"{c.n_layers} layers, width {c.emb_dim}, {c.n_heads} heads, {kind}",
            "vocabulary": f"{c.vocab_size:,} words, languages: {languages}",
            "weights": f"{self.tensors} tensors, {self.parameters:,} parameters, {self.dtype}, read back and equal",
        }
        return "\n".join(f"{name:<12}{value}" for name, value in rows.items())


def convert(
    source: str | PathLike[str],
    target: str | PathLike[str],
    *,
    to: Literal["transformers", "original"] = "transformers",
    codes: str | PathLike[str] | None = None,
    dtype: torch.dtype | str | None = None,
) -> ConversionReport:
    """Convert a checkpoint. The result is read back and compared with the source before it gets the target's name.

    Args:
        source: A ``.pth`` of the original, a directory in the ``transformers`` layout, the name of a bundled model, or
            an id on the hub.
        target: The directory (``to="transformers"``) or file (``to="original"``) to create; must not exist.
        to: The format to write.
        codes: File of the BPE codes of a ``.pth``. Without it, the target has a vocabulary but no tokenizer.
        dtype: Type of the weights in the target; ``None`` keeps the type in the source.

    Returns:
        A report of the conversion.

    Raises:
        CheckpointError: The source is invalid, or the original's format cannot represent it.
        InputError: ``source``, ``target`` or ``codes`` is not a path.
        VocabularyError: The codes or the vocabulary are invalid.
        WriteError: The target exists or could not be written; nothing is left behind.
    """
    target = as_path("target", target)
    file_dtype = None if dtype is None else parse_dtype(dtype)
    if not isinstance(to, str) or to not in ("transformers", "original"):
        raise ConfigError("no such format", where="to", found=shown(to), expected="'transformers' or 'original'")
    if not target.name or (to == "original" and target.suffix == CODES_SUFFIX):
        raise WriteError(
            "the target needs another name",
            where=target,
            found=target.name or "nothing",
            expected=f"a name without the suffix {CODES_SUFFIX}, which is reserved for the BPE codes beside a .pth",
        )
    for output in (target,) if to == "transformers" else (target, target.with_suffix(CODES_SUFFIX)):
        _refuse_existing(output)
    source = find_model(source)
    if codes is not None:
        codes = as_path("codes", codes)
    checkpoint = open_checkpoint(source)
    _check_range(checkpoint, file_dtype)
    vocabulary = _vocabulary(checkpoint, source)
    tokenizer = _tokenizer(checkpoint, vocabulary, source, codes)
    if tokenizer is not None:
        vocabulary = tokenizer.vocabulary  # includes added tokens, which vocab.json may lack
    _check_size(checkpoint, vocabulary, source)
    write = _write_layout if to == "transformers" else _write_original
    files, notes = write(target, checkpoint, vocabulary, tokenizer, file_dtype)
    return ConversionReport(
        source=source,
        target=target,
        files=files,
        config=checkpoint.config,
        tensors=len(checkpoint.tensors),
        parameters=sum(tensor.numel() for tensor in checkpoint.tensors.values()),
        dtype=dtype_name(file_dtype or checkpoint.dtype),
        is_encoder_decoder=checkpoint.is_encoder_decoder,
        notes=(*checkpoint.notes, *notes),
    )


_Result = tuple[tuple[str, ...], list[str]]
"""Names of the written files, and notices for the user."""


def _write_layout(
    target: Path,
    checkpoint: Checkpoint,
    vocabulary: Vocabulary | None,
    tokenizer: XLMTokenizer | None,
    dtype: torch.dtype | None,
) -> _Result:
    theirs = {TRANSFORMERS.theirs(name): tensor for name, tensor in checkpoint.tensors.items()}
    with replacing_directory(target) as directory:
        write_layout(
            directory,
            checkpoint.config,
            checkpoint.tensors,
            checkpoint.provenance,
            dtype=dtype,
            is_encoder_decoder=checkpoint.is_encoder_decoder,
        )
        notes = []
        if tokenizer is not None:
            save_tokenizer(tokenizer, directory)
        elif vocabulary is not None:
            vocabulary.to_json(directory / VOCABULARY_FILE)
            notes.append(
                "no BPE codes: the target holds weights and vocabulary only; for a tokenizer, convert again with the "
                "codes of the training run"
            )
        else:
            notes.append("the source has no vocabulary: the target holds weights only")
        if vocabulary is not None and len(vocabulary) < checkpoint.config.vocab_size:
            notes.append(
                f"the vocabulary is smaller than the model: {len(vocabulary):,} words for "
                f"{checkpoint.config.vocab_size:,} embeddings; the last embeddings have no word"
            )
        with _reading_back(target):
            differing = differing_tensors(directory / WEIGHTS_FILE, theirs, dtype=dtype)
            config, _, _ = read_config(directory)
            ids = None if vocabulary is None else json.loads((directory / VOCABULARY_FILE).read_bytes())
            same_words = vocabulary is None or ids == vocabulary.ids
            _compare(target, checkpoint.config, config, same_words, differing)
        return tuple(sorted(entry.name for entry in directory.iterdir())), notes


def _write_original(
    target: Path,
    checkpoint: Checkpoint,
    vocabulary: Vocabulary | None,
    tokenizer: XLMTokenizer | None,
    dtype: torch.dtype | None,
) -> _Result:
    if vocabulary is None:
        raise CheckpointError(
            "the source has no vocabulary, which a checkpoint of the original needs",
            where=checkpoint.source,
            found=f"no {VOCABULARY_FILE}",
            remedy="fetch the model's vocab.json into the directory",
        )
    with replacing(target) as temporary:
        write_original(temporary, checkpoint, vocabulary.words(), dtype=dtype)
        with _reading_back(target):
            again = read_original(temporary, causal=checkpoint.config.causal)
            words = Vocabulary.from_dictionary(again.words or (), where=target)
            differing = [
                name
                for name, tensor in {**again.tensors, **checkpoint.tensors}.items()
                if not _same_bits(again.tensors.get(name), checkpoint.tensors.get(name), dtype or tensor.dtype)
            ]
            _compare(target, checkpoint.config, again.config, words == vocabulary, differing)
        files = [target.name]
        if tokenizer is not None:
            write_codes(target.with_suffix(CODES_SUFFIX), tokenizer.merges)
            files.append(target.with_suffix(CODES_SUFFIX).name)
    notes = []
    if checkpoint.provenance.record is None:
        notes.append(
            "the source has no word counts and no training parameters: all counts are 0, and params has only "
            "what the original's loaders need"
        )
    return tuple(files), notes


def _same_bits(tensor: Tensor | None, expected: Tensor | None, dtype: torch.dtype) -> bool:
    if tensor is None or expected is None or tensor.dtype != dtype or tensor.shape != expected.shape:
        return False
    pieces = zip(chunks(tensor, dtype), chunks(expected, dtype), strict=True)
    return all(torch.equal(bits(a), bits(b)) for a, b in pieces)


def _tokenizer(
    checkpoint: Checkpoint, vocabulary: Vocabulary | None, source: Path, codes: str | PathLike[str] | None
) -> XLMTokenizer | None:
    if checkpoint.words is not None and vocabulary is not None:
        # Use the vocabulary that is already read: load_tokenizer(source) would read the whole file again.
        # The preset "original" needs a language, which programs written for transformers do not pass. So the saved
        # tokenizer also names a preset for calls without a language.
        without_lang = {"preset_without_lang": "transformers"}
        languages = checkpoint.config.lang2id
        return None if codes is None else original_tokenizer(vocabulary, languages, Path(codes), **without_lang)
    return load_tokenizer(source, codes=codes) if codes is not None or has_tokenizer(source) else None


def _vocabulary(checkpoint: Checkpoint, source: Path) -> Vocabulary | None:
    """Return the vocabulary from the source's own files, without opening its tokenizer."""
    if checkpoint.words is not None:
        counts = None if checkpoint.provenance.record is None else checkpoint.provenance.record.counts
        return Vocabulary.from_dictionary(checkpoint.words, counts, where=source)
    file = source / VOCABULARY_FILE
    return Vocabulary.from_json(file) if file.is_file() else None


def _check_size(checkpoint: Checkpoint, vocabulary: Vocabulary | None, source: Path) -> None:
    """Refuse a vocabulary that has more words than the model has embeddings.

    Fewer words are valid, because a model can be enlarged without its vocabulary.
    """
    if vocabulary is not None and len(vocabulary) > checkpoint.config.vocab_size:
        raise CheckpointError(
            "the vocabulary and the model differ in size",
            where=source,
            found=f"{len(vocabulary)} words",
            expected=f"at most {checkpoint.config.vocab_size}",
            remedy="use the vocabulary that belongs to these weights",
        )


@contextmanager
def _reading_back(target: Path) -> Iterator[None]:
    try:
        yield
    except WriteError:
        raise
    except (XLMError, SafetensorError, OSError, ValueError) as error:
        raise WriteError("the result cannot be read back", where=target, found=error) from error


def _compare(target: Path, expected: XLMConfig, config: XLMConfig, same_words: bool, differing: list[str]) -> None:
    # Writing changes three settings: an unset embed_init_std is set, an adaptive softmax becomes untied, and unnamed
    # languages get names.
    unstable: dict[str, Any] = {"embed_init_std": None}
    if not expected.lang2id:
        unstable["lang2id"] = {}
    problems = [*differing[:8]]
    normalized = [each.replace(**unstable, share_inout_emb=each.tied) for each in (config, expected)]
    if normalized[0] != normalized[1]:
        problems.append("the configuration")
    if not same_words:
        problems.append("the vocabulary")
    if problems:
        raise WriteError(
            "the result differs from the source when it is read back",
            where=target,
            found=f"differences in {', '.join(problems)}",
            remedy="the disk or memory of this machine may be faulty; try another target",
        )


def _check_range(checkpoint: Checkpoint, dtype: torch.dtype | None) -> None:
    """Refuse to convert weights to a type in which one of them would become infinite."""
    if dtype is None:
        return
    overflowing = [
        name
        for name, tensor in checkpoint.tensors.items()
        if torch.finfo(dtype).max < torch.finfo(tensor.dtype).max
        and not all(bool(piece.isfinite().all()) for piece in chunks(tensor, dtype))
    ]
    if overflowing:
        raise CheckpointError(
            "weights are too large for the requested type",
            where=checkpoint.source,
            found=", ".join(overflowing[:8]),
            expected=f"values up to {torch.finfo(dtype).max:g}",
            remedy="choose bfloat16 or float32",
        )


def _refuse_existing(target: Path) -> None:
    check_name(target)
    if target.exists() or target.is_symlink():
        raise WriteError(
            "the target exists already",
            where=target,
            found="a directory" if target.is_dir() else "a file",
            expected="an unused name",
            remedy="choose another name, or remove the target",
        )
