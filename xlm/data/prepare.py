"""Write the token ids of raw text to shards, in several processes, and continue an interrupted run."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from xlm._io.atomic import make_directory, replacing
from xlm.corpus.formats import format_of
from xlm.corpus.read_ahead import read_ahead
from xlm.corpus.rows import Corpus
from xlm.data.shards import INDEX_FILE, TOKENIZER_DIRECTORY, Index, Shard, Source, Text, id_dtype
from xlm.errors import InputError
from xlm.tokenizer.batches import in_order
from xlm.tokenizer.tokenizer import XLMTokenizer, ids_of_texts, tokenizer_digest

SHARD_TOKENS = 1 << 26
"""Number of ids at which a shard is full. The batch of lines that reaches this number is the last in the shard."""

_BATCH_LINES = 1 << 13
_BATCH_CHARACTERS = 1 << 20
"""Number of characters in a batch of lines. Large batches tokenize faster, and cost less to send to another process."""


def prepare(
    tokenizer: XLMTokenizer,
    texts: Mapping[str, Mapping[str, Path]],
    directory: Path,
    *,
    format: str | None = None,
    column: str | None = None,
    workers: int = 1,
    shard_tokens: int = SHARD_TOKENS,
    progress: Callable[[str, str, int, int], None] = lambda split, language, lines, tokens: None,
) -> Index:
    """Write the token ids of texts to a directory. After an interruption, the same call continues the work.

    Args:
        tokenizer: Tokenizer that makes the ids.
        texts: Files by split (``train``, ``valid``, …) and name, one sentence a row. The name of a text is its
            language. The two sides of pairs have names such as ``de-en.de`` and ``de-en.en``; each row of one file
            is the translation of the same row of the other.
        directory: Directory to write to, created if it is missing.
        format: Format of the files; see ``Corpus``.
        column: Column that holds the text; see ``Corpus``.
        workers: Number of processes.
        shard_tokens: Approximate number of ids in a shard.
        progress: Called with split, language, lines and tokens after each shard.

    Returns:
        The index of everything in the directory.

    Raises:
        InputError: A text cannot be read or is empty, the two sides of pairs differ in their number of rows, or the
            directory has shards of another tokenizer or text.
        DependencyError: A text is in Parquet, and pyarrow is not installed.
        LanguageError: The tokenizer does not know a language.
        WriteError: A file could not be written.
    """
    # Refuse an unknown language or a file of another format before any work.
    for name in {name for split in texts.values() for name in split}:
        tokenizer.encode("", lang=language_of(name))
    Corpus((path for split in texts.values() for path in split.values()), format=format, column=column).check()
    index = _open_index(tokenizer, directory)
    for split, names in texts.items():
        for name, path in names.items():
            source = _source(path, format=format, column=column)
            text = index.splits.get(split, {}).get(name) or Text(source=source)
            if text.source != source:
                raise InputError(
                    "the directory holds the shards of another text",
                    where=directory / INDEX_FILE,
                    found=f"{_described(text.source)}, for {split} {name}",
                    expected=f"{_described(source)}, unchanged since",
                    remedy="write to another directory",
                )
            if text.complete:
                continue
            batches = read_batches(path, format=format, column=column, skip=text.lines)
            work = partial(_encoded, tokenizer, lang=language_of(name), dtype=id_dtype(index.dtype))
            results = in_order(work, batches, workers=workers)
            for longer_text in _write_shards(text, results, directory, f"{split}.{name}", tokenizer, shard_tokens):
                index = index.with_text(split, name, longer_text)
                index.write(directory)
                progress(split, name, longer_text.lines, longer_text.tokens)
        _check_pairs(index, split, names)
    return index


def language_of(name: str) -> str:
    """Return the language of a text from its name; for a side of pairs, such as ``de-en.de``, it follows the point."""
    return name.rpartition(".")[2]


def _check_pairs(index: Index, split: str, texts: Mapping[str, Path]) -> None:
    lines: dict[str, dict[str, int]] = {}
    for name in texts:
        pair, point, language = name.partition(".")
        if point:
            lines.setdefault(pair, {})[language] = index.splits[split][name].lines
    for pair, sides in lines.items():
        if len(set(sides.values())) > 1:
            files = [str(texts[f"{pair}.{language}"]) for language in sides]
            raise InputError(
                "the files of pairs are not parallel",
                where=", ".join(files),
                found=", ".join(f"{count:,} lines of {language}" for language, count in sides.items()),
                expected="as many lines of both, each the translation of the other",
                remedy="mend the files, and prepare them in an empty directory",
            )


def read_batches(
    path: Path, *, format: str | None = None, column: str | None = None, skip: int = 0
) -> Iterator[list[str]]:
    """Yield the texts of a file in batches.

    Args:
        path: The file.
        format: Format of the file; see ``Corpus``.
        column: Column that holds the text; see ``Corpus``.
        skip: Number of texts to skip at the start.

    Raises:
        InputError: A text or the file cannot be read.
        DependencyError: The file is in Parquet, and pyarrow is not installed.
    """
    texts = Corpus([path], format=format, column=column).texts(skip=skip)
    return read_ahead(texts, len, most=_BATCH_LINES, characters=_BATCH_CHARACTERS)


def _open_index(tokenizer: XLMTokenizer, directory: Path) -> Index:
    signature, vocab_size = tokenizer_digest(tokenizer), tokenizer.vocab_size
    if (directory / INDEX_FILE).exists():
        index = Index.read(directory)
        if index.signature != signature:
            raise InputError(
                "the directory holds the shards of another tokenizer",
                where=directory / INDEX_FILE,
                found=f"signature {index.signature[:12]}, {index.vocab_size} tokens",
                expected=f"signature {signature[:12]}, {vocab_size} tokens",
                remedy="use the same tokenizer and languages, or write to another directory",
            )
        return index
    make_directory(directory)
    tokenizer.save_pretrained(directory / TOKENIZER_DIRECTORY)
    return Index(signature=signature, vocab_size=vocab_size, dtype="uint16" if vocab_size <= 1 << 16 else "uint32")


def _described(source: Source) -> str:
    column = "" if source.column is None else f", column {source.column!r}"
    return f"{source.path}, {source.bytes} bytes, read as {source.format}{column}"


def _source(path: Path, *, format: str | None, column: str | None) -> Source:
    try:
        status = path.stat()
    except OSError as error:
        raise InputError("the file cannot be read", where=path, found=error.strerror) from error
    return Source(
        path=str(path.resolve()),
        bytes=status.st_size,
        modified=status.st_mtime_ns,
        format=format or format_of(path),
        column=column,
    )


def _encoded(
    tokenizer: XLMTokenizer, lines: list[str], *, lang: str, dtype: np.dtype[Any]
) -> tuple[int, int, np.ndarray[Any, Any]]:
    """Return the number of lines, how many of them are empty, and the ids of all lines, each ended by ``</s>``."""
    rows = ids_of_texts(tokenizer, lines, lang=lang).between(None, tokenizer.sep_token_id)
    return len(lines), int((rows.lengths == 1).sum()), rows.values.astype(dtype)


def _write_shards(
    text: Text,
    results: Iterator[tuple[int, int, np.ndarray[Any, Any]]],
    directory: Path,
    name: str,
    tokenizer: XLMTokenizer,
    shard_tokens: int,
) -> Iterator[Text]:
    """After writing each shard to disk, yield the ``Text`` with the shards so far; finally, the complete ``Text``."""
    while (first := next(results, None)) is not None:
        path = directory / f"{name}.{len(text.shards):04}.bin"
        lines = empty = tokens = unknown = 0
        digest = hashlib.sha256()
        with replacing(path) as temporary, temporary.open("wb") as file:
            for batch_lines, batch_empty, ids in itertools.chain([first], results):
                data = ids.tobytes()
                file.write(data)
                digest.update(data)
                lines += batch_lines
                empty += batch_empty
                tokens += len(ids)
                unknown += int((ids == tokenizer.unk_token_id).sum())
                if tokens >= shard_tokens:
                    break
        shard = Shard(
            file=path.name, lines=lines, tokens=tokens, unknown=unknown, sha256=digest.hexdigest(), empty=empty
        )
        text = dataclasses.replace(text, shards=(*text.shards, shard))
        yield text
    if text.lines == 0:
        raise InputError("the text is empty", where=text.source.path, found="no lines", expected="one sentence a line")
    yield dataclasses.replace(text, complete=True)
