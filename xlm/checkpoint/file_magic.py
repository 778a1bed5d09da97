"""Check the first bytes of a checkpoint, without importing torch."""

from __future__ import annotations

from pathlib import Path

from xlm._io.files import open_regular, unreadable
from xlm.errors import CheckpointError

# The first bytes of what torch.save writes, in its two formats.
_ZIPPED, _PICKLED, _PICKLED_AS_TEXT = b"PK", b"\x80", b"L1"


def check_first_bytes(path: Path) -> None:
    """Refuse a file that ``torch.save`` cannot have written.

    Raises:
        CheckpointError: The file cannot be read, is empty, or does not begin like one that ``torch.save`` writes.
    """
    with open_regular(path, error=CheckpointError, expected="a checkpoint") as file:
        try:
            head = file.read(len(_ZIPPED))
        except OSError as error:
            raise unreadable(path, error, error=CheckpointError, expected="a checkpoint") from error
    if not head:
        raise CheckpointError(
            "the file is empty", where=path, found="0 bytes", expected="a checkpoint", remedy="fetch it again"
        )
    if not head.startswith((_ZIPPED, _PICKLED, _PICKLED_AS_TEXT)):
        raise CheckpointError(
            "the file is not a checkpoint",
            where=path,
            found=f"a file that begins with {head!r}",
            expected="a .pth of the original, or a directory with config.json and weights",
            remedy="check the path, and the order of the arguments; fetch the file again if it is damaged",
        )
