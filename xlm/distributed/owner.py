"""Whose a directory of output is: the run's that was the last to write its line into the file ``_run``.

Each run begins by writing its line, behind those of the runs that it goes on with, and nobody but the one whose line is
the last writes a part or ``_SUCCESS``. A worker that does not find the file does not see the directory.
"""

from __future__ import annotations

from collections.abc import Iterable

from xlm.distributed.storage import Directory
from xlm.errors import InputError, WriteError

_RUN = "_run"


def runs_of(directory: Directory) -> list[str] | None:
    """The runs that have had a directory, the one that has it last; ``None`` when it is no directory of output."""
    data = directory.read(_RUN)
    return None if data is None else data.decode("ascii", "replace").split()


def take(directory: Directory, *, after: Iterable[str] = ()) -> None:
    """Makes a directory ours.

    Args:
        directory: It; its ``writer`` is who we are.
        after: The runs that had it before and that we go on with.

    Raises:
        WriteError: It cannot be written.
    """
    directory.write(_RUN, "".join(f"{run}\n" for run in [*after, directory.writer]).encode())


def check_ours(directory: Directory) -> None:
    """Sees to it that a directory is here, and that no other run has taken it.

    Raises:
        InputError: Another run has it.
        WriteError: It is not here: this machine does not see what the one sees that began the run.
    """
    runs = runs_of(directory)
    if runs is None:
        raise WriteError(
            "the output directory is not the one that the run began in",
            where=directory.address,
            found=f"no {_RUN} in it",
            expected="a directory that every machine sees under this name",
            remedy="a shared file system, or an object store",
        )
    if runs[-1:] != [directory.writer]:
        raise taken(directory)


def taken(directory: Directory) -> InputError:
    """The error of a run that has lost its directory to another."""
    return InputError(
        "another run has taken the output directory",
        where=directory.address,
        remedy="let it end, or write somewhere else",
    )
