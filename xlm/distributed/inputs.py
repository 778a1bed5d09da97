"""The files behind the names of inputs: files, directories and patterns, of this machine or elsewhere."""

from __future__ import annotations

import io
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, BinaryIO

from xlm.distributed.storage import file_system, is_address
from xlm.errors import InputError
from xlm.scoring.input_files import InputFile, LocalFile

_WILDCARDS = frozenset("*?[")
_NOT_DATA = (".", "_")
_READ_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file that Arrow or fsspec opens.

    Attributes:
        name: Its address.
        bytes: Its size.
    """

    name: str
    bytes: int

    @property
    def path(self) -> PurePath:
        """As ``InputFile``'s."""
        return PurePosixPath(self.name)

    def size(self) -> int:
        """As ``InputFile``'s."""
        return self.bytes

    def open(self) -> AbstractContextManager[BinaryIO]:
        """As ``InputFile``'s."""
        opened: Any = self.open_parquet()
        return closing(io.BufferedReader(opened, _READ_AT_ONCE))

    def open_parquet(self) -> AbstractContextManager[Any]:
        """As ``InputFile``'s."""
        system, path = file_system(self.name)
        return system.open_input_file(path)  # type: ignore[no-any-return]


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


def input_files(names: list[str]) -> list[InputFile]:
    """The files behind names: files, directories with all that is below, and patterns with ``*``, ``?`` and ``[]``.

    Names in a directory or of a pattern are in the order of their characters; those that begin with a dot or an
    underscore are left out, as other engines leave them out.

    Args:
        names: Paths or addresses.

    Raises:
        InputError: One names nothing.
        DependencyError: pyarrow is not installed.
    """
    return [file for name in names for file in _files_of(name)]


def _files_of(name: str) -> list[InputFile]:
    from pyarrow import fs

    system, path = file_system(name)
    if _WILDCARDS & set(path) and system.get_file_info(path).type == fs.FileType.NotFound:
        found = _matching(system, path)
    else:
        info = system.get_file_info(path)
        if info.type == fs.FileType.File:
            return [_file(name, info.size)]
        found = _below(system, path) if info.type == fs.FileType.Directory else []
    if not found:
        raise InputError("there is no such file, and nothing below it", where="inputs", found=name)
    return [_file(_named(name, path, info.path), info.size) for info in found]


def _file(name: str, size: int) -> InputFile:
    return RemoteFile(name, size or 0) if is_address(name) else SharedFile(Path(name).absolute(), name)


def _below(system: Any, directory: str) -> list[Any]:
    from pyarrow import fs

    selector = fs.FileSelector(directory, recursive=True, allow_not_found=True)
    inside = len(PurePosixPath(directory).parts)
    found = [
        info
        for info in system.get_file_info(selector)
        if info.type == fs.FileType.File
        and not any(part.startswith(_NOT_DATA) for part in PurePosixPath(info.path).parts[inside:])
    ]
    return sorted(found, key=lambda info: str(info.path))


def _matching(system: Any, pattern: str) -> list[Any]:
    parts = PurePosixPath(pattern).parts
    plain = next(place for place, part in enumerate(parts) if _WILDCARDS & set(part))
    directory = str(PurePosixPath(*parts[:plain])) if plain else ""
    return [
        info
        for info in _below(system, directory)
        if len(found := PurePosixPath(info.path).parts) == len(parts)
        and all(fnmatchcase(part, wanted) for part, wanted in zip(found, parts, strict=True))
    ]


def _named(name: str, path: str, found: str) -> str:
    """What a file that was found below a name is called: beginning as the name does, up to its first wildcard."""
    whole = PurePosixPath(path).parts
    plain = next((place for place, part in enumerate(whole) if _WILDCARDS & set(part)), len(whole))
    rest = PurePosixPath(*PurePosixPath(found).parts[plain:])
    given = PurePosixPath(name).parts
    kept = given[: len(given) - (len(whole) - plain)]
    if not is_address(name):
        return str(PurePosixPath(*kept, rest))
    beginning = name.rstrip("/")
    for _ in whole[plain:]:
        beginning = beginning.rpartition("/")[0]
    return f"{beginning}/{rest}"
