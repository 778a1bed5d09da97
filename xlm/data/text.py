"""Text files, plain or compressed, line by line."""

from __future__ import annotations

import errno
import gzip
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from xlm.errors import InputError
from xlm.tokenizer.batches import grouped

_NOT_READABLE = frozenset({errno.ENOENT, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR})
_BATCH_LINES = 2000
_BATCH_CHARACTERS = 1 << 19


@contextmanager
def open_text(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file for bytes; one whose name ends in ``.gz`` is decompressed.

    Raises:
        InputError: It cannot be read.
    """
    try:
        with _opened(path) as file:
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError("The file is not complete gzip data", where=path, found=error) from error
    except OSError as error:
        # What was read before may be written meanwhile; the errors of that are none of this file's.
        if error.errno not in _NOT_READABLE:
            raise
        raise InputError(
            "The text could not be read", where=path, found=error.strerror, expected="a text file", remedy="check it"
        ) from error


def _opened(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def read_lines(file: Iterable[bytes], *, name: object, skip: int = 0) -> Iterator[str]:
    r"""Yields the lines without their ``\n``; an unfinished last line counts too.

    Args:
        file: Lines of bytes.
        name: What errors call the file.
        skip: How many lines to leave out at the start.

    Raises:
        InputError: A line is not UTF-8.
    """
    for number, line in enumerate(file, start=1):
        if number <= skip:
            continue
        try:
            yield line.removesuffix(b"\n").decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                "The text is not UTF-8",
                where=f"{name}, line {number}",
                found=f"byte 0x{line[error.start]:02x} at byte {error.start + 1} of the line",
                remedy="convert the text, for example: iconv -f LATIN1 -t UTF-8",
            ) from error


def in_batches(lines: Iterable[str]) -> Iterator[list[str]]:
    """Returns an iterator over the lines in lists that are worth sending to another process."""
    return grouped(lines, most=_BATCH_LINES, characters=_BATCH_CHARACTERS, length=len)
