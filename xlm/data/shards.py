"""Token ids on disk: flat files of integers, and one index that describes them.

A prepared directory holds ``index.json``, the tokenizer that made the ids (``tokenizer/``) and the shards of each text:
files of little-endian ``uint16`` or ``uint32``, with the ids of its sentences, each ended by ``</s>``.
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xlm._io.atomic import write_text
from xlm._io.files import read_regular
from xlm.errors import InputError
from xlm.scoring.stream import Ids

INDEX_FILE = "index.json"
TOKENIZER_DIRECTORY = "tokenizer"
_FORMAT = "xlm shards 2"
_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """A file of ids.

    Attributes:
        file: Name of the file in the directory.
        lines: Number of lines of text.
        tokens: Number of ids, including the ``</s>`` of each line.
        unknown: Number of ``<unk>`` among the ids.
        sha256: SHA-256 of the file.
        empty: Number of lines without a token; 0 for shards of earlier releases, which did not count them.
    """

    file: str
    lines: int
    tokens: int
    unknown: int
    sha256: str
    empty: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A text file, as it was when it was read.

    Attributes:
        path: Absolute path.
        bytes: Size in bytes.
        modified: Time of the last change, in nanoseconds.
        format: Format that it was read in.
        column: Column that was read; None for the default.
    """

    path: str
    bytes: int
    modified: int
    format: str = "text"
    column: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """The text of one language in one split.

    Attributes:
        source: The text file.
        complete: Whether the shards hold the whole text.
        shards: Shards in the order of the text.
    """

    source: Source
    complete: bool = False
    shards: tuple[Shard, ...] = ()

    @property
    def tokens(self) -> int:
        """Number of ids in all shards."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def lines(self) -> int:
        """Number of lines in all shards."""
        return sum(shard.lines for shard in self.shards)

    @property
    def empty(self) -> int:
        """Number of lines without a token."""
        return sum(shard.empty for shard in self.shards)


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """Contents of a prepared directory.

    Attributes:
        signature: Fingerprint of the tokenizer, from ``tokenizer_digest``.
        vocab_size: Number of tokens in the vocabulary.
        dtype: Type of the ids in the shards, ``uint16`` or ``uint32``.
        splits: Texts by split (``train``, ``valid``, …) and language; a side of pairs has a name such as ``de-en.de``.
    """

    signature: str
    vocab_size: int
    dtype: str
    splits: dict[str, dict[str, Text]] = field(default_factory=dict)

    def with_text(self, split: str, language: str, text: Text) -> Index:
        """Return a copy with another text for a language of a split."""
        languages = {**self.splits.get(split, {}), language: text}
        return dataclasses.replace(self, splits={**self.splits, split: languages})

    def write(self, directory: Path) -> None:
        """Write ``index.json`` atomically.

        Raises:
            WriteError: The file could not be written.
        """
        write_text(directory / INDEX_FILE, json.dumps({"format": _FORMAT, **dataclasses.asdict(self)}, indent=1) + "\n")

    @classmethod
    def read(cls, directory: Path) -> Index:
        """Return the index of a prepared directory.

        Raises:
            InputError: The directory has no index, or an invalid one.
        """
        path = directory / INDEX_FILE
        if not os.path.lexists(path):
            raise InputError(
                "there are no prepared shards", where=path, found="no such file", remedy="make them with xlm prepare"
            )
        try:
            values = json.loads(read_regular(path, error=InputError).decode("utf-8"))
            if (format := values.pop("format")) != _FORMAT:
                raise InputError(
                    "the index of the shards cannot be read: it has another format",
                    where=path,
                    found=format,
                    expected=_FORMAT,
                    remedy="prepare the text again, in an empty directory",
                )
            values["splits"] = {
                split: {language: _text(text) for language, text in texts.items()}
                for split, texts in values["splits"].items()
            }
            index = cls(**values)
            if index.dtype not in ("uint16", "uint32"):
                raise ValueError(f"unknown dtype {index.dtype}")
            return index
        except InputError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InputError(
                "the index of the shards cannot be read", where=path, found=error, remedy="prepare the text again"
            ) from error


def _text(values: dict[str, Any]) -> Text:
    shards = tuple(Shard(**shard) for shard in values["shards"])
    for shard in shards:
        if Path(shard.file).name != shard.file:
            raise ValueError(f"a file outside the directory: {shard.file!r}")
        if not all(
            type(number) is int and number >= 0 for number in (shard.lines, shard.tokens, shard.unknown, shard.empty)
        ):
            raise ValueError(f"wrong counts of {shard.file!r}")
    # Earlier releases called this key ``form``; the first releases did not write it.
    source = {"format" if key == "form" else key: value for key, value in values["source"].items()}
    return Text(source=Source(**source), complete=values["complete"] is True, shards=shards)


class ShardSequence:
    """The ids of one text, memory-mapped from its shards.

    Args:
        directory: The prepared directory.
        shards: The shards, in order.
        dtype: Type of the ids, ``uint16`` or ``uint32``.
        vocab_size: Size of the vocabulary; every id must be below it.
        check: Whether to read every shard, and verify its checksum and its ids.

    Raises:
        InputError: A shard is missing, or differs from the index.
    """

    def __init__(
        self, directory: Path, shards: Sequence[Shard], *, dtype: str, vocab_size: int, check: bool = True
    ) -> None:
        file_dtype = id_dtype(dtype)
        self._ends = list(itertools.accumulate(shard.tokens for shard in shards))
        self._arrays: list[np.ndarray[Any, Any]] = []
        for shard in shards:
            path = directory / shard.file
            size = path.stat().st_size if path.is_file() else None
            expected = shard.tokens * file_dtype.itemsize
            if size != expected:
                raise _damaged(path, "no such file" if size is None else f"{size} bytes", f"{expected} bytes")
            if check and (checksum := file_sha256(path)) != shard.sha256:
                raise _damaged(path, f"SHA-256 {checksum}", shard.sha256)
            # An empty file cannot be mapped.
            array = np.memmap(path, file_dtype, mode="r") if size else np.empty(0, file_dtype)
            if check and size and (largest := int(array.max())) >= vocab_size:
                raise _damaged(path, f"id {largest}", f"ids below {vocab_size}")
            self._arrays.append(array)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def slice(self, begin: int, end: int) -> Ids:
        """Return the ids from ``begin`` to ``end`` - 1."""
        parts = []
        first = bisect.bisect_right(self._ends, begin)
        for array, array_end in zip(self._arrays[first:], self._ends[first:], strict=True):
            start = array_end - len(array)
            if start >= end:
                break
            parts.append(array[max(begin - start, 0) : end - start])
        return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)


def id_dtype(name: str) -> np.dtype[Any]:
    """Return the type of ids in the files: ``uint16`` or ``uint32``, little-endian."""
    dtype: np.dtype[Any] = np.dtype(name).newbyteorder("<")
    return dtype


def _damaged(path: Path, found: str, expected: str) -> InputError:
    return InputError(
        "a shard is not what its index says",
        where=path,
        found=found,
        expected=expected,
        remedy="prepare the text again, in an empty directory",
    )


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
