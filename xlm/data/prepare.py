"""Raw text to shards: in several processes, as a stream, from where an earlier run was cut off."""

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
from xlm.corpus.rows import Corpus
from xlm.data.shards import INDEX_FILE, TOKENIZER_DIRECTORY, Index, Shard, Source, Text
from xlm.data.text import in_batches, texts_of
from xlm.errors import InputError
from xlm.tokenizer.batches import in_order
from xlm.tokenizer.tokenizer import XLMTokenizer, tokenizer_digest

SHARD_TOKENS = 1 << 26
"""A shard ends after the batch of lines with which it reaches so many ids."""


def prepare(
    tokenizer: XLMTokenizer,
    texts: Mapping[str, Mapping[str, Path]],
    directory: Path,
    *,
    form: str | None = None,
    column: str | None = None,
    workers: int = 1,
    shard_tokens: int = SHARD_TOKENS,
    progress: Callable[[str, str, int, int], None] = lambda split, language, lines, tokens: None,
) -> Index:
    """Writes the ids of texts into a directory, made when missing, and goes on there where it was cut off.

    Args:
        tokenizer: Makes the ids, each text by the rules of its language.
        texts: Split (``train``, ``valid``, …) to language to a file, one sentence a row.
        directory: Where to.
        form: Of the files, as for ``Corpus``.
        column: Of the files, as for ``Corpus``.
        workers: Processes that share the work.
        shard_tokens: About how many ids to a file.
        progress: Told of split, language, lines and tokens done so far, every now and then.

    Returns:
        The index of all that the directory holds.

    Raises:
        InputError: A text that cannot be read or is empty; a directory with shards of another tokenizer or text.
        DependencyError: A text in Parquet, and pyarrow is not installed.
        LanguageError: A language that the tokenizer does not have.
        WriteError: A file could not be written.
    """
    for language in {language for split in texts.values() for language in split}:
        tokenizer.encode("", lang=language)  # a wrong language is said before any work is done
    Corpus((path for split in texts.values() for path in split.values()), format=form, column=column).check()
    index = _opened(tokenizer, directory)
    for split, languages in texts.items():
        for language, path in languages.items():
            known = index.splits.get(split, {}).get(language)
            source = _source(path, form=form, column=column)
            if known is not None and known.source != source:
                raise InputError(
                    "The directory holds the shards of another text",
                    where=directory / INDEX_FILE,
                    found=f"{_described(known.source)}, for {split} {language}",
                    expected=f"{_described(source)}, unchanged since",
                    remedy="write to another directory",
                )
            begun = known or Text(source=source)
            rows = texts_of(path, form=form, column=column, skip=begun.lines)
            for text in _extended(begun, tokenizer, rows, directory, split, language, workers, shard_tokens):
                index = _with_text(index, split, language, text)
                index.write(directory)
                progress(split, language, text.lines, text.tokens)
    return index


def _opened(tokenizer: XLMTokenizer, directory: Path) -> Index:
    signature, vocab_size = tokenizer_digest(tokenizer), tokenizer.vocab_size
    if (directory / INDEX_FILE).exists():
        index = Index.read(directory)
        if index.signature != signature:
            raise InputError(
                "The directory holds shards of another tokenizer",
                where=directory / INDEX_FILE,
                found=f"signature {index.signature}, {index.vocab_size} tokens",
                expected=f"signature {signature}, {vocab_size} tokens",
                remedy="write to another directory",
            )
        return index
    make_directory(directory)
    tokenizer.save_pretrained(directory / TOKENIZER_DIRECTORY)
    return Index(signature=signature, vocab_size=vocab_size, dtype="uint16" if vocab_size <= 1 << 16 else "uint32")


def _described(source: Source) -> str:
    column = "" if source.column is None else f", column {source.column!r}"
    return f"{source.path}, {source.bytes} bytes, read as {source.form}{column}"


def _source(path: Path, *, form: str | None, column: str | None) -> Source:
    try:
        status = path.stat()
    except OSError as error:
        raise InputError("The text could not be read", where=path, found=error.strerror) from error
    return Source(
        path=str(path.resolve()),
        bytes=status.st_size,
        modified=status.st_mtime_ns,
        form=form or format_of(path),
        column=column,
    )


def _with_text(index: Index, split: str, language: str, text: Text) -> Index:
    languages = {**index.splits.get(split, {}), language: text}
    return dataclasses.replace(index, splits={**index.splits, split: languages})


def _extended(
    text: Text,
    tokenizer: XLMTokenizer,
    rows: Iterator[str],
    directory: Path,
    split: str,
    language: str,
    workers: int,
    shard_tokens: int,
) -> Iterator[Text]:
    """Yields the text with each further shard, which is then on disk; at last the complete one."""
    if text.complete:
        yield text
        return
    dtype = np.dtype("uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32").newbyteorder("<")
    work = partial(_encoded, tokenizer, lang=language, dtype=dtype)
    results = in_order(work, in_batches(rows), workers=workers)
    while (first := next(results, None)) is not None:
        file_name = f"{split}.{language}.{len(text.shards):04}.bin"
        shard = _write_shard(directory / file_name, itertools.chain([first], results), tokenizer, shard_tokens)
        text = dataclasses.replace(text, shards=(*text.shards, shard))
        yield text
    if text.lines == 0:
        raise InputError("The text is empty", where=text.source.path, found="no line", expected="one sentence a line")
    yield dataclasses.replace(text, complete=True)


def _encoded(
    tokenizer: XLMTokenizer, lines: list[str], *, lang: str, dtype: np.dtype[Any]
) -> tuple[int, np.ndarray[Any, Any]]:
    """Number of lines, and the ids of all, each line's with a closing ``</s>``."""
    ids: list[int] = []
    for row in tokenizer.encode_batch(lines, lang=lang, add_special_tokens=False):
        ids += row
        ids.append(tokenizer.sep_token_id)
    return len(lines), np.array(ids, dtype)


def _write_shard(
    path: Path, results: Iterator[tuple[int, np.ndarray[Any, Any]]], tokenizer: XLMTokenizer, shard_tokens: int
) -> Shard:
    lines = tokens = unknown = 0
    digest = hashlib.sha256()
    with replacing(path) as temporary, temporary.open("wb") as file:
        for batch_lines, ids in results:
            data = ids.tobytes()
            file.write(data)
            digest.update(data)
            lines += batch_lines
            tokens += len(ids)
            unknown += int((ids == tokenizer.unk_token_id).sum())
            if tokens >= shard_tokens:
                break
    return Shard(file=path.name, lines=lines, tokens=tokens, unknown=unknown, sha256=digest.hexdigest())
