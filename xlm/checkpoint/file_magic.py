"""Whether a file can be a checkpoint at all, by its first bytes: for that, torch need not be imported."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from xlm.errors import CheckpointError

# How a file begins that torch.save has written, in its two formats.
_ZIPPED, _PICKLED, _PICKLED_AS_TEXT = b"PK", b"\x80", b"L1"


def check_first_bytes(path: Path) -> None:
    """Refuses a file that torch cannot have written.

    Raises:
        CheckpointError: It cannot be read, or torch has not written it.
    """
    with open_regular(path) as file:
        try:
            head = file.read(len(_ZIPPED))
        except OSError as error:
            raise not_opened(path, error) from error
    if not head:
        raise empty(path)
    if not head.startswith((_ZIPPED, _PICKLED, _PICKLED_AS_TEXT)):
        raise CheckpointError(
            "the file is not a checkpoint",
            where=path,
            found=f"a file that begins with {head!r}",
            expected="a .pth of the original, or a directory with config.json and weights",
            remedy="check the path, and the order of the arguments; fetch the file again if it is damaged",
        )


def open_regular(path: Path, *, expected: str = "a checkpoint") -> BinaryIO:
    """Open a file for reading, and no pipe or device, which may never end.

    Raises:
        CheckpointError: It cannot be opened, or is not a regular file.
    """
    try:
        if path.is_file() or not path.exists():
            return path.open("rb")
    except (OSError, ValueError) as error:
        raise not_opened(path, error, expected=expected) from error
    raise not_opened(path, ValueError("not a regular file"), expected=expected)


def not_opened(path: Path, error: Exception, *, expected: str = "a checkpoint") -> CheckpointError:
    """The error for a file that the system does not open."""
    return CheckpointError(
        "the file cannot be opened",
        where=path,
        found=getattr(error, "strerror", None) or error,
        expected=expected,
        remedy="check the path, and who may read it",
    )


def empty(path: Path) -> CheckpointError:
    """The error for a file without content."""
    return CheckpointError(
        "the file is empty", where=path, found="0 bytes", expected="a checkpoint", remedy="fetch it again"
    )
