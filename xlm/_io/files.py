"""Bounded reads of regular files from outside."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from xlm.errors import XLMError

MOST_BYTES = 1 << 24
"""Size of the largest JSON or text file of a model that is read.

Half a million words fit, more than twice the largest published vocabulary; in memory the worst file takes 60 times its
size.
"""


def read_regular(path: Path, *, error: type[XLMError], most: int = MOST_BYTES) -> bytes:
    """Return the bytes of a regular file; never wait for a pipe, and never read more than a limit.

    Args:
        path: The file; links are followed.
        error: The class of the error to raise.
        most: The limit, in bytes.

    Raises:
        XLMError: The file is missing, unreadable, larger than the limit, or a directory, a device, a pipe or a socket.
    """
    try:
        kind = path.stat().st_mode  # before it is opened: that alone can set a device going
        if stat.S_ISREG(kind):
            # Something else may have taken the name meanwhile: not to wait for a pipe, and to look again.
            with open(path, "rb", opener=_open_at_once) as file:
                kind = os.fstat(file.fileno()).st_mode
                data = file.read(most + 1) if stat.S_ISREG(kind) and os.fstat(file.fileno()).st_size <= most else None
    except (OSError, ValueError) as cause:  # ValueError: a null character in the name
        raise error(
            "the file could not be read",
            where=path,
            found=getattr(cause, "strerror", None) or cause,
            expected="a regular file",
            remedy="check the path, and who may read it",
        ) from cause
    if not stat.S_ISREG(kind):
        raise error(
            "this is not a regular file",
            where=path,
            found="a directory" if stat.S_ISDIR(kind) else "a device, a pipe or a socket",
            expected="a regular file",
            remedy="check the path, and where it leads if it is a link",
        )
    if data is None or len(data) > most:
        raise error(
            "the file is too large",
            where=path,
            found=f"more than {most:,} bytes",
            expected=f"at most {most:,} bytes",
            remedy="check that it is the file it should be",
        )
    return data


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
