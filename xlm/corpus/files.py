"""Sources of records: files here or elsewhere, standard input, and gzip data."""

from __future__ import annotations

import io
import os
import sys
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from gzip import BadGzipFile
from pathlib import Path, PurePath
from typing import Any, BinaryIO, Protocol

STDIN = Path("-")
"""The path that stands for standard input."""

_MAGIC = b"\x1f\x8b"
_READ = 1 << 16
_MOST = 1 << 18
"""Decompressed bytes at a time; a compressed byte can stand for a thousand."""


class InputFile(Protocol):
    """A file that can be read, more than once unless it is a pipe."""

    @property
    def path(self) -> PurePath:
        """The path, whose suffix names the format."""
        ...

    @property
    def name(self) -> str:
        """The name in results."""
        ...

    def size(self) -> int:
        """Return the stored size in bytes; 0 if it is unknown or the file is gone."""
        ...

    def open(self) -> AbstractContextManager[BinaryIO]:
        """Open the file for bytes.

        Raises:
            OSError: It is gone, or cannot be read.
        """
        ...

    def open_parquet(self) -> AbstractContextManager[Any]:
        """Open the file as an argument of ``pyarrow.parquet.ParquetFile``.

        Raises:
            OSError: It is gone, or cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of this machine, or standard input.

    Attributes:
        path: The path as it was given.
    """

    path: Path

    @property
    def name(self) -> str:
        r"""The path, bytes of it that are not UTF-8 as ``\xff``."""
        return os.fsencode(self.path).decode("utf-8", "backslashreplace")

    def size(self) -> int:
        """See ``InputFile``."""
        try:
            return 0 if self.path == STDIN else self.path.stat().st_size
        except OSError:
            return 0

    def open(self) -> AbstractContextManager[BinaryIO]:
        """See ``InputFile``."""
        return nullcontext(sys.stdin.buffer) if self.path == STDIN else self.path.open("rb")

    def open_parquet(self) -> AbstractContextManager[Any]:
        """See ``InputFile``."""
        return nullcontext(self.path)


class GzipReader(io.RawIOBase):
    """Reader of the decompressed bytes of all members of a gzip file.

    Zeros behind a member are padding. Other bytes there that begin no member are counted and left out. Where the data
    is damaged or cut off, all that could be decompressed is handed out before the error is raised.

    Args:
        file: The compressed bytes.
        on_trailing: Called once at the end if bytes were left out: how many, and the offset of the first.

    Raises:
        BadGzipFile: The file does not begin with a gzip member; when it is read.
        EOFError: It is empty or ends inside a member; when it is read.
        zlib.error: A member is damaged, or its checksum does not match; when it is read.
    """

    def __init__(self, file: io.BufferedIOBase, *, on_trailing: Callable[[int, int], None]) -> None:
        self._file, self._on_trailing = file, on_trailing
        self._input = b""  # read and not yet decompressed
        self._offset = 0  # of the end of that
        self._members_end = 0  # offset of the end of the last whole member
        self._member: Any = None  # the decompressor of the open one
        self._output = memoryview(b"")  # decompressed and not yet handed out
        self._error: Exception | None = None  # comes behind that
        self._ended = False

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with the bytes that are available, and return their number; 0 at the end."""
        while not self._output and not self._ended:
            if self._error is not None:
                raise self._error
            if self._member is None:
                self._open_member()
            else:
                self._output = memoryview(self._decompress())
        count = min(len(buffer), len(self._output))
        buffer[:count], self._output = self._output[:count], self._output[count:]
        return count

    def _fill(self) -> bool:
        data = self._file.read1(_READ)  # a pipe may have less for now
        self._input += data
        self._offset += len(data)
        return bool(data)

    def _open_member(self) -> None:
        while len(self._input) < len(_MAGIC) and self._fill():
            if self._members_end:
                self._input = self._input.lstrip(b"\0")
        if self._input.startswith(_MAGIC):
            self._member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        elif self._members_end:
            self._ended = True
            if self._input:
                while self._fill():
                    self._input = b""
                self._on_trailing(self._offset - self._members_end, self._members_end)
        elif self._input:
            raise BadGzipFile(f"not gzip data: it begins with {self._input[:2]!r}")
        else:
            raise EOFError("it is empty, and no gzip data")

    def _decompress(self) -> bytes:
        at_end = not self._input and not self._fill()
        before = self._member.copy()
        try:
            data: bytes = self._member.decompress(self._input, _MOST)
        except zlib.error as error:
            self._error = error
            return _before_error(before, self._input)
        if self._member.eof:
            self._input = self._member.unused_data.lstrip(b"\0")
            self._members_end = self._offset - len(self._member.unused_data)
            self._member = None
        else:
            self._input = self._member.unconsumed_tail
            if at_end and not data:
                self._error = EOFError("the gzip data is cut off")
        return data


def _before_error(member: Any, data: bytes) -> bytes:
    """Decompress byte by byte up to the one that raises."""
    decompressed = bytearray()
    try:
        for place in range(len(data)):
            decompressed += member.decompress(data[place : place + 1])
    except zlib.error:
        pass
    return bytes(decompressed)
