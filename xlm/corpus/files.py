"""Sources of rows: local and remote files, standard input, and gzip data."""

from __future__ import annotations

import io
import os
import sys
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from gzip import BadGzipFile
from pathlib import Path, PurePath
from typing import Any, BinaryIO, Protocol

STDIN = Path("-")
"""The path that stands for standard input."""

_MAGIC = b"\x1f\x8b"
_READ = 1 << 16
_DECOMPRESS = 1 << 18
"""Maximum number of decompressed bytes to produce at a time; one compressed byte can become a thousand."""


class InputFile(Protocol):
    """A file to read. Every file except a pipe can be read more than once."""

    @property
    def path(self) -> PurePath:
        """The path; its suffix names the format."""
        ...

    @property
    def name(self) -> str:
        """The name of the file in results."""
        ...

    def size(self) -> int:
        """Return the size of the stored file in bytes; 0 if it is unknown or the file is gone."""
        ...

    def open(self) -> AbstractContextManager[BinaryIO]:
        """Open the file for reading bytes.

        Raises:
            OSError: The file is gone or cannot be read.
        """
        ...

    def open_parquet(self) -> AbstractContextManager[Any]:
        """Open the file as an argument for ``pyarrow.parquet.ParquetFile``.

        Raises:
            OSError: The file is gone or cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A local file, or standard input.

    Attributes:
        path: The path of the file; ``STDIN`` for standard input.
    """

    path: Path

    @property
    def name(self) -> str:
        r"""The path, with bytes that are not UTF-8 written as ``\xff``."""
        return os.fsencode(self.path).decode("utf-8", "backslashreplace")

    def size(self) -> int:
        """Return the size in bytes; see ``InputFile``."""
        try:
            return 0 if self.path == STDIN else self.path.stat().st_size
        except OSError:
            return 0

    def open(self) -> AbstractContextManager[BinaryIO]:
        """Open the file for reading bytes."""
        return nullcontext(sys.stdin.buffer) if self.path == STDIN else self.path.open("rb")

    def open_parquet(self) -> AbstractContextManager[Any]:
        """Return the path, which pyarrow opens itself."""
        return nullcontext(self.path)


class GzipReader(io.RawIOBase):
    """Reader of the decompressed bytes of a gzip file, which consists of one or more members.

    Zeros after a member are padding. Other bytes after a member that do not begin another member are counted and
    ignored. If the data is damaged or truncated, reading returns everything that can be decompressed before it raises
    the error.

    Args:
        file: The compressed bytes.
        on_trailing: Called once at the end if bytes were ignored, with the number of these bytes and the offset of the
            first of them.

    Raises:
        BadGzipFile: On reading, if the file does not begin with a gzip member.
        EOFError: On reading, if the file is empty or ends inside a member.
        zlib.error: On reading, if a member is damaged or its checksum does not match.
    """

    def __init__(self, file: io.BufferedIOBase, *, on_trailing: Callable[[int, int], None]) -> None:
        self._file, self._on_trailing = file, on_trailing
        self._input = b""  # bytes read but not yet decompressed
        self._offset = 0  # offset of the end of _input in the file
        self._members_end = 0  # offset of the end of the last complete member
        self._member: Any = None  # the decompressor of the current member
        self._output = memoryview(b"")  # decompressed but not yet returned
        self._error: Exception | None = None  # the error to raise once _output is used up
        self._ended = False

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with the available bytes, and return their number; 0 at the end."""
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
        data = self._file.read1(_READ)  # a pipe may return fewer bytes than requested
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
            raise EOFError("it is empty, so it is not gzip data")

    def _decompress(self) -> bytes:
        at_end = not self._input and not self._fill()
        before = self._member.copy()
        try:
            data: bytes = self._member.decompress(self._input, _DECOMPRESS)
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
    """Decompress damaged data byte by byte, and return what comes before the byte that raises the error."""
    decompressed = bytearray()
    with suppress(zlib.error):
        for byte in data:
            decompressed += member.decompress(bytes([byte]))
    return bytes(decompressed)
