"""Safe reading of files that may come from strangers: only regular files, and only up to a maximum size."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from xlm.errors import XLMError

MOST_BYTES = 1 << 24
"""Maximum size in bytes of a JSON or text file of a model.

A vocabulary file of this size holds half a million words, more than twice the largest published vocabulary. In memory,
a parsed file takes at most 60 times the size of the file.
"""


def open_regular(path: Path, *, error: type[XLMError], expected: str = "a regular file") -> BinaryIO:
    """Open a regular file for reading, without waiting for a pipe or starting a device.

    Args:
        path: The file; links are followed.
        error: The class of the error to raise.
        expected: What the file should be, for the message.

    Raises:
        XLMError: The file is missing, unreadable, or a directory, a device, a pipe or a socket.
    """
    try:
        kind = path.stat().st_mode  # check before opening, because opening can start a device
        if stat.S_ISREG(kind):
            # A pipe may have replaced the file since the check, so open without waiting, then check again.
            file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115 (the caller closes it)
            kind = os.fstat(file.fileno()).st_mode
            if stat.S_ISREG(kind):
                return file
            file.close()
    except (OSError, ValueError) as cause:  # ValueError means a null character in the name
        raise unreadable(path, cause, error=error, expected=expected) from cause
    raise error(
        "not a regular file",
        where=path,
        found="a directory" if stat.S_ISDIR(kind) else "a device, a pipe or a socket",
        expected=expected,
        remedy="check the path, and its target if it is a link",
    )


def read_regular(path: Path, *, error: type[XLMError], most: int = MOST_BYTES) -> bytes:
    """Return the content of a regular file, which must not exceed a limit.

    Args:
        path: The file; links are followed.
        error: The class of the error to raise.
        most: The limit, in bytes.

    Raises:
        XLMError: As for ``open_regular``, or the file is larger than the limit.
    """
    with open_regular(path, error=error) as file:
        try:
            data = file.read(most + 1) if os.fstat(file.fileno()).st_size <= most else None
        except OSError as cause:
            raise unreadable(path, cause, error=error) from cause
    if data is None or len(data) > most:
        raise error(
            "the file is too large",
            where=path,
            found=f"more than {most:,} bytes",
            expected=f"at most {most:,} bytes",
            remedy="check that this is the right file",
        )
    return data


def unreadable(path: Path, cause: Exception, *, error: type[XLMError], expected: str = "a regular file") -> XLMError:
    """Return the error for a file that could not be opened or read, with the reason."""
    return error(
        "the file cannot be read",
        where=path,
        found=getattr(cause, "strerror", None) or cause,
        expected=expected,
        remedy="check the path and its permissions",
    )


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
