"""Atomic writes: a file is written beside its target, then moved onto it."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xlm.errors import WriteError, XLMError

_REMEDIES = {
    errno.ENOSPC: "free some space on that file system, or write somewhere else",
    errno.EDQUOT: "free some of the disk quota, or write somewhere else",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f), or write to a file system that allows larger files",
    errno.EACCES: "check who may write in that directory, or write somewhere else",
    errno.EPERM: "check who may write in that directory, or write somewhere else",
    errno.EROFS: "the file system is read-only; write somewhere else",
    errno.ENOENT: "make the directory first",
    errno.ENOTDIR: "one of the parents is a file; choose another path",
    errno.EISDIR: "a directory has that name; choose another path",
    errno.EEXIST: "a file has that name; choose another path",
    errno.ENAMETOOLONG: "choose a shorter name",
}


@contextmanager
def errors_of_writing(path: Path) -> Iterator[None]:
    """Convert an ``OSError`` of the ``with`` block to a ``WriteError`` for ``path``; other errors pass unchanged."""
    try:
        yield
    except XLMError:
        raise  # a WriteError is an OSError too, but already has a full message
    except OSError as error:
        raise write_error(path, error) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and move the file there onto ``path`` when the ``with`` block succeeds.

    If the block raises anything, the temporary file is removed and ``path`` is unchanged.

    Args:
        path: The file to make or to replace; its directory must exist.

    Yields:
        The temporary path, in the directory of ``path``; no file of that name exists yet.

    Raises:
        WriteError: The block or the move raised an ``OSError`` (disk full, no permission, …), or ``path`` exists and is
            not a regular file.
    """
    # A short random name: the name of the target with a suffix could exceed the file system's limit.
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        with errors_of_writing(path):
            refuse_special(path)
            yield temporary
            if path.exists():
                # Without this flush, a power cut soon after the move could destroy both the old and the new file.
                flush_to_disk(temporary)
            temporary.replace(path)
    finally:
        with suppress(OSError):  # the file is usually gone already, and a second failure must not hide the first
            temporary.unlink()


@contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """Yield a new directory beside ``path`` to fill, and rename it to ``path`` when the ``with`` block succeeds.

    If the block raises anything, the new directory is removed with its contents.

    Args:
        path: The directory to make; nothing of that name may exist.

    Raises:
        WriteError: The block or the move raised an ``OSError``.
    """
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        with errors_of_writing(path):
            temporary.mkdir()
            yield temporary
            temporary.replace(path)
    except WriteError as error:
        # The error may name a temporary file, which means nothing to the user.
        raise WriteError(error.what, where=path, found=error.found, remedy=error.remedy) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    r"""Write ``text`` to ``path`` atomically, as UTF-8 with ``\n`` line ends on every platform.

    Raises:
        WriteError: The file could not be written.
    """
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise WriteError(
            "the text cannot be written as UTF-8",
            where=path,
            found=ascii(text[error.start : error.end]),
            remedy="correct the name or value that holds this half of a surrogate pair",
        ) from error
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def check_target(path: Path) -> None:
    """Check, before long work, that ``replacing`` will probably be able to write a file to a path.

    Raises:
        WriteError: The file probably cannot be written.
    """
    with errors_of_writing(path):
        refuse_special(path)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        probe = path.parent / f".{secrets.token_hex(8)}.tmp"
        probe.touch()
        probe.unlink()


def make_directory(path: Path) -> None:
    """Make a directory and its parents, unless they exist.

    Raises:
        WriteError: The directory could not be made.
    """
    check_name(path)
    with errors_of_writing(path):
        path.mkdir(parents=True, exist_ok=True)


def check_name(path: Path) -> None:
    """Refuse a path that cannot be a file name.

    Raises:
        WriteError: The path contains a null byte or half of a surrogate pair.
    """
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        encoded = b"\0"
    if b"\0" in encoded:
        raise WriteError(
            "the target is not a valid file name", where=ascii(str(path)), found="a null byte or half a surrogate pair"
        )


def write_error(path: Path, error: OSError) -> WriteError:
    """Return the ``WriteError`` for an ``OSError`` on writing a path, with the reason and a remedy."""
    return WriteError(
        "the target could not be written; an existing file of that name is unchanged",
        where=path,
        found=error.strerror or str(error),
        remedy=_REMEDIES.get(error.errno or 0, "check the path and the file system it is on"),
    )


def refuse_special(path: Path) -> None:
    """Refuse a path to a device, a pipe or the like, which moving a file onto it would replace.

    Raises:
        WriteError: The path exists and is neither a regular file nor a directory.
        OSError: The name cannot be examined, for instance because it is too long.
    """
    # /dev/stdout is a link into /proc. The links there may hold text that is not a path, such as "pipe:[4711]" or
    # "/tmp/out (deleted)".
    real = Path(os.path.realpath(path))
    into_proc = path.is_symlink() and path.readlink().parts[:2] == ("/", "proc")
    elsewhere = path.is_symlink() and path.exists() and not (real.exists() and path.samefile(real))
    if into_proc or elsewhere or (path.exists() and not path.is_file() and not path.is_dir()):
        raise WriteError(
            "the target is not a regular file",
            where=path,
            found="a device, a pipe or the like",
            expected="a file, or a name that is free",
            remedy="write to a file, and copy it from there",
        )


def flush_to_disk(path: Path) -> None:
    """Wait until the content of a file is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
