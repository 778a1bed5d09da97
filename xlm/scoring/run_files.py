"""The files of a run that may be cut off: their names, who may write them, and how each is replaced."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from xlm._atomic import refuse_special, write_error
from xlm.errors import InputError, WriteError, XLMError

if sys.platform != "win32":  # where nothing keeps two runs apart
    import fcntl

_SUFFIXES = ("", ".part", ".part.json", ".part.tmp", ".meta.json")


class RunFiles:
    """A target and what is written beside it.

    Args:
        target: The file to make or to replace; its directory must exist. Links are followed.

    Attributes:
        target: Where it really is.
        part: Its unfinished form.
        state: How far that is.
        temporary: What is about to replace one of the others.
        meta: What the finished file is.

    Raises:
        WriteError: The target is no regular file, or cannot be one.
    """

    def __init__(self, target: Path) -> None:
        self.target = real_target(target)
        _, self.part, self.state, self.temporary, self.meta = written_beside(self.target)

    def lock(self, file: BinaryIO) -> None:
        """Keeps other runs away from the unfinished file for as long as it is open.

        Raises:
            WriteError: Another run has it.
        """
        if sys.platform == "win32":
            return
        busy = WriteError(
            "another run is writing this file", where=self.part, remedy="wait for it, or write somewhere else"
        )
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise busy from error
        except OSError:
            return  # a file system without locks
        # The other run can have ended, and moved the file away, between our opening and our locking it.
        if not self.part.exists() or not os.path.samestat(os.fstat(file.fileno()), self.part.stat()):
            raise busy

    def write_json(self, path: Path, values: Mapping[str, Any]) -> None:
        """Replaces one of the files by values.

        Raises:
            WriteError: It could not be written.
        """
        data = (json.dumps(values, indent=1) + "\n").encode("utf-8")
        self.replace(path, lambda temporary: _write_bytes(temporary, data))

    def replace(self, path: Path, write: Callable[[Path], None]) -> None:
        """Replaces one of the files, at once or not at all.

        Args:
            path: Which.
            write: Makes the new one under the name it is given.

        Raises:
            WriteError: It could not be written.
        """
        # One name, which the lock makes ours, so that a killed run's leftover is overwritten and not one more file.
        try:
            self.temporary.unlink(missing_ok=True)
            write(self.temporary)
            with self.temporary.open("r+b") as file:
                os.fsync(file.fileno())
            self.temporary.replace(path)
        except XLMError:
            raise
        except OSError as error:
            with suppress(OSError):
                self.temporary.unlink()
            raise write_error(path, error) from error


def check_same_run(
    found: Mapping[str, Any],
    expected: Mapping[str, Any],
    *,
    where: object,
    otherwise: str,
    what: str = "the run that was cut off was another one",
) -> None:
    """Refuses to go on with another run.

    Args:
        found: What the other run is.
        expected: What this one is.
        where: The file that says so.
        otherwise: What to do instead of resuming.
        what: What is wrong.

    Raises:
        InputError: They differ; the message names all that does.
    """
    differing = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
    if differing:
        raise InputError(
            what,
            where=where,
            found="; ".join(f"{key}: {found.get(key)}" for key in differing),
            expected="; ".join(f"{key}: {expected.get(key)}" for key in differing),
            remedy=f"resume with the same model, inputs and options, or {otherwise}",
        )


def other_input_error(where: object, *, found: str, otherwise: str) -> InputError:
    """The error of a run that is to be resumed on what it did not begin with.

    Args:
        where: Which input, or how much of it.
        found: What it holds now.
        otherwise: What to do instead of resuming.
    """
    return InputError(
        "the input is not that of the run that is to be resumed",
        where=where,
        found=found,
        expected="the same rows as then",
        remedy=otherwise,
    )


def real_target(target: Path) -> Path:
    """Where an output file really goes, links followed.

    Raises:
        WriteError: Something that is no regular file has that name, or no file can.
    """
    try:
        refuse_special(target)
        target = Path(os.path.realpath(target))
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        for path in written_beside(target):
            with suppress(FileNotFoundError, NotADirectoryError):
                path.lstat()  # raises for a name that is too long
    except WriteError:
        raise
    except OSError as error:
        raise write_error(target, error) from error
    return target


def written_beside(target: Path) -> list[Path]:
    """Every file that is written for a target: itself, its unfinished form, state, temporary file and description."""
    return [target.with_name(target.name + suffix) for suffix in _SUFFIXES]


def _write_bytes(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
