"""Ids on disk: flat files of whole numbers, and one index that says what they are.

A prepared directory holds ``index.json``, the tokenizer it was made with (``tokenizer/``) and, for each part of each
text, a file of little-endian ``uint16`` or ``uint32``: the ids of its sentences, each with its closing ``</s>``.
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
_READ = 1 << 22


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One file of ids.

    Attributes:
        file: Its name in the directory.
        lines: Lines of text in it.
        tokens: Ids in it, closing ``</s>`` included.
        unknown: How many of them are ``<unk>``.
        sha256: Of its bytes.
    """

    file: str
    lines: int
    tokens: int
    unknown: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A text file as it was when it was read.

    Attributes:
        path: Where it was.
        bytes: Its size.
        modified: Time of its last change, nanoseconds.
        form: How it was read; what is older than this key was read as text.
        column: Which column was read; ``None`` for the default.
    """

    path: str
    bytes: int
    modified: int
    form: str = "text"
    column: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """All of one language in one split.

    Attributes:
        source: The text file.
        complete: Whether all of it is in the shards.
        shards: In the order of the text.
    """

    source: Source
    complete: bool = False
    shards: tuple[Shard, ...] = ()

    @property
    def tokens(self) -> int:
        """Ids in all shards."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def lines(self) -> int:
        """Lines in all shards."""
        return sum(shard.lines for shard in self.shards)


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """What a prepared directory holds.

    Attributes:
        signature: Fingerprint of the tokenizer, ``tokenizer_digest``.
        vocab_size: Tokens in its vocabulary.
        dtype: ``uint16`` or ``uint32``.
        splits: Split (``train``, ``valid``, …) to language to text.
    """

    signature: str
    vocab_size: int
    dtype: str
    splits: dict[str, dict[str, Text]] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Writes ``index.json``, whole or not at all.

        Raises:
            WriteError: It could not be written.
        """
        write_text(directory / INDEX_FILE, json.dumps({"format": _FORMAT, **dataclasses.asdict(self)}, indent=1) + "\n")

    @classmethod
    def read(cls, directory: Path) -> Index:
        """The index of a prepared directory.

        Raises:
            InputError: There is none, or it is not one.
        """
        path = directory / INDEX_FILE
        if not os.path.lexists(path):
            raise InputError(
                "there are no prepared shards", where=path, found="no such file", remedy="make them with xlm prepare"
            )
        try:
            values = json.loads(read_regular(path, error=InputError).decode("utf-8"))
            if (found := values.pop("format")) != _FORMAT:
                raise InputError(
                    "the index of the shards cannot be read: it is of another format",
                    where=path,
                    found=found,
                    expected=_FORMAT,
                    remedy="prepare the text again, in an empty directory",
                )
            values["splits"] = {
                split: {language: _text(text) for language, text in texts.items()}
                for split, texts in values["splits"].items()
            }
            index = cls(**values)
            if index.dtype not in ("uint16", "uint32"):
                raise ValueError(f"dtype {index.dtype}")
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
        if not all(type(number) is int and number >= 0 for number in (shard.lines, shard.tokens, shard.unknown)):
            raise ValueError(f"wrong counts of {shard.file!r}")
    return Text(source=Source(**values["source"]), complete=values["complete"] is True, shards=shards)


class ShardSequence:
    """The ids of one text, mapped from its files.

    Args:
        directory: The prepared directory.
        shards: The files, in order.
        dtype: ``uint16`` or ``uint32``.
        vocab_size: Every id is below it.
        check: Also read every file, and compare its checksum and its ids.

    Raises:
        InputError: A file is missing, or is not what the index says.
    """

    def __init__(
        self, directory: Path, shards: Sequence[Shard], *, dtype: str, vocab_size: int, check: bool = True
    ) -> None:
        kind = np.dtype(dtype).newbyteorder("<")
        self._ends = list(itertools.accumulate(shard.tokens for shard in shards))
        self._arrays: list[np.ndarray[Any, Any]] = []
        for shard in shards:
            path = directory / shard.file
            size = path.stat().st_size if path.is_file() else None
            if size != shard.tokens * kind.itemsize:
                raise _damaged(path, "no such file" if size is None else f"{size} bytes", shard.tokens * kind.itemsize)
            if check and (found := file_sha256(path)) != shard.sha256:
                raise _damaged(path, f"SHA-256 {found}", shard.sha256)
            # A file without a byte cannot be mapped.
            array = np.memmap(path, kind, mode="r") if size else np.empty(0, kind)
            if check and size and (largest := int(array.max())) >= vocab_size:
                raise _damaged(path, f"id {largest}", f"ids below {vocab_size}")
            self._arrays.append(array)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def slice(self, begin: int, end: int) -> Ids:
        """The ids from ``begin`` to ``end`` - 1."""
        parts = []
        first = bisect.bisect_right(self._ends, begin)
        for array, array_end in zip(self._arrays[first:], self._ends[first:], strict=True):
            start = array_end - len(array)
            if start >= end:
                break
            parts.append(array[max(begin - start, 0) : end - start])
        return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)


def _damaged(path: Path, found: str, expected: object) -> InputError:
    return InputError(
        "a shard is not what its index says",
        where=path,
        found=found,
        expected=expected,
        remedy="prepare the text again, in an empty directory",
    )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ):
            digest.update(piece)
    return digest.hexdigest()
