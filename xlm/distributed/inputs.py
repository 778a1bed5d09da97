"""The files behind the names of inputs: files, directories and patterns, of this machine or elsewhere.

What a name is below the directory that it was found in is never read as an address: it may hold any character.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, BinaryIO

from xlm.corpus.files import InputFile, LocalFile
from xlm.distributed.storage import file_system, is_address, place
from xlm.errors import InputError

_WILDCARDS = frozenset("*?[")
_NOT_DATA = (".", "_")
_READ_AT_ONCE = 1 << 20

_Entry = tuple[str, int | None]
"""A path in a file system, and its bytes; ``None`` for a directory."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file that Arrow or fsspec opens.

    Attributes:
        name: What it is called.
        address: What opens the file system that it is in.
        place: Its path there.
        bytes: Its size.
    """

    name: str
    address: str
    place: str
    bytes: int

    @property
    def path(self) -> PurePath:
        """As ``InputFile``'s."""
        return PurePosixPath(self.place)

    def size(self) -> int:
        """As ``InputFile``'s."""
        return self.bytes

    def open(self) -> AbstractContextManager[BinaryIO]:
        """As ``InputFile``'s."""
        opened: Any = self.open_parquet()
        return closing(io.BufferedReader(opened, _READ_AT_ONCE))

    def open_parquet(self) -> AbstractContextManager[Any]:
        """As ``InputFile``'s."""
        system, _ = file_system(self.address)
        return system.open_input_file(os.fsencode(self.place))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class SharedFile(LocalFile):
    """A file that every machine sees under the same path.

    Attributes:
        given: Its name as it was given, which need not be a whole path.
    """

    given: str

    @property
    def name(self) -> str:
        """As ``InputFile``'s."""
        return LocalFile(Path(self.given)).name


def input_files(names: list[str], *, output: str | None = None) -> list[InputFile]:
    """The files behind names: files, directories with all that is below, and patterns with ``*``, ``?`` and ``[]``.

    Names in a directory or of a pattern are in the order of their characters; those that begin with a dot or an
    underscore are left out, as other engines leave them out.

    Args:
        names: Paths or addresses.
        output: Path or address of the output, which may lie below a directory of the input: what is there is left out.

    Raises:
        InputError: One names nothing, cannot be listed, or is in the output.
        DependencyError: pyarrow is not installed.
    """
    return [file for name in names for file in _files_of(name, output)]


def _files_of(name: str, output: str | None) -> list[InputFile]:
    system, path = file_system(name)
    # Options are part of an address, and of no name.
    whole = (name if "?" in path else name.partition("?")[0]) if is_address(name) else str(PurePath(name))
    given_parts = whole.rstrip("/").split("/")
    try:
        pattern, found = _found(system, path, most=len(given_parts))
    except (OSError, UnicodeError) as error:
        raise InputError("the inputs cannot be listed", where="inputs", found=_printable(f"{name}: {error}")) from error
    beginning = given_parts[: -pattern or None]
    base = "/".join(path.split("/")[: -pattern or None])
    files: list[InputFile] = []
    of_output = _of_output(output, "/".join(beginning) if is_address(name) else base)
    for each, size in found:
        rest = each[len(base) :].strip("/")
        if of_output and rest.startswith(of_output):
            continue
        given = "/".join([*beginning, rest] if rest else beginning)
        if is_address(name):
            files.append(RemoteFile(_printable(given), name, each, size))
        else:
            files.append(SharedFile(Path(each), given))
    if not files:
        raise InputError("no such file, and nothing below it", where="inputs", found=_printable(name))
    return files


def _of_output(output: str | None, searched: str) -> str | None:
    """How the names of all begin, below what is searched, that is in the output.

    Raises:
        InputError: All that is searched is.
    """
    if output is None:
        return None
    there, here = f"{place(output)}/", f"{place(searched or '/').rstrip('/')}/"
    if here.startswith(there):
        raise InputError(
            "the output directory holds an input",
            where=_printable(output),
            found=_printable(searched),
            remedy="write somewhere else",
        )
    return there.removeprefix(here) if there.startswith(here) else None


def _found(system: Any, path: str, *, most: int) -> tuple[int, list[tuple[str, int]]]:
    """How many of the last parts of a path are a pattern, ``most`` at most, and the files that it means."""
    entry = _entry(system, path)
    found: list[_Entry]
    pattern = 0
    if entry is not None:
        found = [entry] if entry[1] is not None else list(_entries(system, path, recursive=True))
    else:
        parts = path.split("/")
        pattern = max(
            (back for back in range(1, min(most, len(parts)) + 1) if _WILDCARDS & set(parts[-back])), default=0
        )
        found = [("/".join(parts[:-pattern]) or "/", None)] if pattern else []
        for wanted in parts[-pattern:]:
            found = [
                below
                for directory, size in found
                if size is None
                for below in _entries(system, directory, recursive=False)
                if fnmatchcase(below[0].rpartition("/")[2], wanted)
            ]
    return pattern, sorted((file, size) for file, size in found if size is not None)


def _entry(system: Any, path: str) -> _Entry | None:
    from pyarrow import fs

    if isinstance(system, fs.LocalFileSystem):
        there = Path(path)
        return (path, None) if there.is_dir() else (path, there.stat().st_size) if there.is_file() else None
    info = system.get_file_info(path)
    return {fs.FileType.Directory: (path, None), fs.FileType.File: (path, info.size or 0)}.get(info.type)


def _entries(system: Any, directory: str, *, recursive: bool) -> Iterator[_Entry]:
    """What is in a directory, without what is no data."""
    from pyarrow import fs

    if isinstance(system, fs.LocalFileSystem):
        yield from _entries_here(directory, recursive=recursive)
        return
    for info in system.get_file_info(fs.FileSelector(directory, recursive=recursive, allow_not_found=True)):
        below = info.path[len(directory) :].strip("/")
        if any(part.startswith(_NOT_DATA) for part in below.split("/")):
            continue
        if info.type == fs.FileType.Directory:
            yield info.path, None
        elif info.type == fs.FileType.File:
            yield info.path, info.size or 0


def _entries_here(directory: str, *, recursive: bool) -> Iterator[_Entry]:
    # Arrow lists only what is UTF-8.
    with suppress(FileNotFoundError), os.scandir(directory) as listed:
        for entry in listed:
            if entry.name.startswith(_NOT_DATA):
                continue
            if entry.is_dir():
                yield entry.path, None
                if recursive:
                    yield from _entries_here(entry.path, recursive=True)
            elif entry.is_file() or entry.is_symlink():
                yield entry.path, LocalFile(Path(entry.path)).size()  # 0 for a link to nothing, which is damage


def _printable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")
