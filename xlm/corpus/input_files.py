"""Files that rows of text are read from, wherever they are."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, BinaryIO, Protocol

STDIN = Path("-")
"""Stands for standard input."""


class InputFile(Protocol):
    """A file that can be read, more than once unless it is a pipe."""

    @property
    def path(self) -> PurePath:
        """Its name says what form it has."""
        ...

    @property
    def name(self) -> str:
        """What it is called in results."""
        ...

    def size(self) -> int:
        """Its bytes as stored; 0 when that is unknown, or when it is gone."""
        ...

    def open(self) -> AbstractContextManager[BinaryIO]:
        """Opens it for bytes.

        Raises:
            OSError: It is gone, or cannot be read.
        """
        ...

    def open_parquet(self) -> AbstractContextManager[Any]:
        """Opens it as what ``pyarrow.parquet.ParquetFile`` takes.

        Raises:
            OSError: It is gone, or cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of this machine, or standard input.

    Attributes:
        path: As it was given.
    """

    path: Path

    @property
    def name(self) -> str:
        r"""The path, bytes of it that are not UTF-8 as ``\xff``."""
        return os.fsencode(self.path).decode("utf-8", "backslashreplace")

    def size(self) -> int:
        """As ``InputFile``'s."""
        try:
            return 0 if self.path == STDIN else self.path.stat().st_size
        except OSError:
            return 0

    def open(self) -> AbstractContextManager[BinaryIO]:
        """As ``InputFile``'s."""
        return nullcontext(sys.stdin.buffer) if self.path == STDIN else self.path.open("rb")

    def open_parquet(self) -> AbstractContextManager[Any]:
        """As ``InputFile``'s."""
        return nullcontext(self.path)
